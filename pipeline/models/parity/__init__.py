"""How far encoders and text towers with converted weights are from open_clip's and timm's own."""
