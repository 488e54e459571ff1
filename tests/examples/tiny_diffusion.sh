# A model of 300 steps of training, sampled in all settings, few points. What it prints is
# the same in two runs, except how fast it is, and so are the model files; with weights of 8
# and 4 bits and activations of 8 and 6, time groups move the points less from what float32
# makes of them than one range does (as near: within a twentieth; weights of 4 bits move them
# more than activations of 8); a file that is no calibration is an error.
set -e
"$EXAMPLES/train_diffusion" . 300 >/dev/null
mkdir again
cp diffusion.parquet diffusion-calibration.parquet again
"$EXAMPLES/tiny_diffusion" . 2 64 >table
"$EXAMPLES/tiny_diffusion" again 2 64 >again/table
for table in table again/table; do
    sed '/points.s/,$s/ *[-0-9]* *[-0-9]*$//; /^wrote/d' $table >$table.same
done
cmp table.same again/table.same
for model in diffusion-w*.parquet; do
    cmp "$model" "again/$model"
done
"$AQ" verify diffusion-w*.parquet >/dev/null
grep -c '<path d="M' tiny_diffusion.html | sed 's/^/clouds of points: /'
awk -F '[+]-' '
    { split($3, words, " "); moved = words[2] }
    /^[84] bits +[86] bits +one range/ { one = moved }
    /^[84] bits +[86] bits +groups, similar/ {
        far = moved - one
        print substr($0, 1, 15) " time groups are " \
            (far < -one / 20 ? "nearer" : far > one / 20 ? "farther" : "as near")
    }' table
cp diffusion.parquet again/diffusion-calibration.parquet
if "$EXAMPLES/tiny_diffusion" again 2 64 2>error >/dev/null; then exit 1; fi
cat error
