"""The gated latent diffusion model of the paper (section 3.1); torch only, outside networks arrive as arguments."""
