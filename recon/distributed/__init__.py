"""A reconstruction by several processes: ``torchrun --nproc-per-node N -m recon.distributed``."""
