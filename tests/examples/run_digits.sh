# A network of 100 steps of training reads most digits, from float32 and from 4 bits.
set -e
"$EXAMPLES/train_digits" . 100
"$AQ" quantize digits.parquet digits-int4.parquet --bits 4 >/dev/null 2>&1
for model in digits.parquet digits.safetensors digits-int4.parquet; do
    "$EXAMPLES/run_digits" $model | tee output
    awk '$1 == "accuracy" && $2 > 60 { good = 1 } END { exit !good }' output
done
