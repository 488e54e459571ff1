# Two runs of the trainer, short ones: the same bytes.
set -e
mkdir a b
"$EXAMPLES/train_digits" a 20
"$EXAMPLES/train_digits" b 20 >/dev/null
cmp a/digits.safetensors b/digits.safetensors
cmp a/digits.parquet b/digits.parquet
