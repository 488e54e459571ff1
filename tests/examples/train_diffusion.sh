# Two runs of the trainer, short ones: the same bytes.
set -e
mkdir a b
"$EXAMPLES/train_diffusion" a 20
"$EXAMPLES/train_diffusion" b 20 >/dev/null
cmp a/diffusion.parquet b/diffusion.parquet
cmp a/diffusion-calibration.parquet b/diffusion-calibration.parquet
"$AQ" verify a/diffusion.parquet
