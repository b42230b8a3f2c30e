"""What keeps a command whole: interrupts, locks, a machine that is full."""
