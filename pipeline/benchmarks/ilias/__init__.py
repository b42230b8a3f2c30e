"""ILIAS: 1,000 objects among up to 100 million distractors; Kordopatis-Zilos et al., CVPR 2025."""
