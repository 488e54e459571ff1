#!/bin/sh
# The tour of `make demo`: train a small network on pictures that are drawn here, quantize it
# to 8, 4 and 2 bits, look at the files, run the network from the codes; then the same with a
# diffusion model, which is sampled. All files go to build/demo; every figure of the table is
# read from the output of these commands.
set -u
cd "$(dirname "$0")/.." || exit 1
for program in build/aq build/examples/train_digits build/examples/run_digits \
    build/examples/train_diffusion build/examples/tiny_diffusion; do
    [ -x "$program" ] || { echo "$program is not built; start with: make demo"; exit 1; }
done
PATH=$PWD/build:$PWD/build/examples:$PATH
mkdir -p build/demo && cd build/demo || exit 1
echo 'In build/demo, with build and build/examples in PATH:'

title() {
    printf '\n== %s\n' "$1"
}

# Shows a command as one would type it, and runs it.
run() {
    printf '$ %s\n' "$*"
    "$@" || { echo "demo: this command failed"; exit 1; }
}

# The same, its output kept in a file: run_to FILE COMMAND...
run_to() {
    file=$1
    shift
    printf '$ %s > %s\n' "$*" "$file"
    "$@" >"$file" || { echo "demo: this command failed"; exit 1; }
}

# --- Train, convert, quantize ---------------------------------------------------------------

title 'A model that reads digits: 593,664 weights, trained on pictures drawn on the spot'
if [ -n "$(find digits.parquet -newer ../examples/train_digits 2>/dev/null)" ]; then
    echo 'digits.safetensors and digits.parquet are there from an earlier run'
else
    run train_digits
fi

title 'From safetensors to Parquet: the same tensors'
run aq convert digits.safetensors digits-float.parquet

title 'Quantize to 8, 4 and 2 bits'
for bits in 8 4 2; do
    run_to "int$bits.json" \
        aq quantize digits-float.parquet "digits-int$bits.parquet" --bits "$bits" --json
done

# --- Look and check -------------------------------------------------------------------------

title 'What is in the 4-bit file'
run aq inspect digits-int4.parquet

title 'Every checksum, page and tensor'
run aq verify digits-float.parquet digits-int8.parquet digits-int4.parquet digits-int2.parquet

title 'The 4-bit weights beside the original ones'
run aq compare digits-float.parquet digits-int4.parquet

# --- Run ------------------------------------------------------------------------------------

title 'Read 4000 new pictures, straight from the codes in the mapped file'
for name in float int8 int4 int2; do
    run_to "$name.run" run_digits "digits-$name.parquet"
    cat "$name.run"
done

title 'Back to float32, for a program that knows nothing of codes'
run aq dequantize digits-int4.parquet digits-int4-float.safetensors
run run_digits digits-int4-float.safetensors

# --- Table ----------------------------------------------------------------------------------

# A figure of a JSON report, which has a line for each member of the document and for each
# tensor: total FILE KEY, of_tensor FILE NAME KEY.
total() {
    sed -n "s/^  \"$2\": \"\{0,1\}\([^\",]*\)\"\{0,1\},\{0,1\}\$/\1/p" "$1"
}
of_tensor() {
    sed -n "/\"name\": \"$2\"/s/.*\"$3\": \([^,}]*\).*/\1/p" "$1"
}

# A line for each model: name, tensor bytes, file bytes, bits per weight, cosine, SQNR, the
# worst tensor with its SQNR, accuracy, pictures/s, bytes quantized, seconds.
ran() {
    sed -n 's|^accuracy \([0-9.]*\) %.* \([0-9]*\) pictures/s$|\1 \2|p' "$1.run"
}
{
    aq inspect digits-float.parquet --json >float.json || exit 1
    report=float.json
    echo "float32 $(total "$report" tensor_bytes) $(total "$report" file_bytes)" \
        "$(total "$report" bits_per_weight) - - - - $(ran float) - -"
    for bits in 8 4 2; do
        report=int$bits.json
        worst=$(total "$report" worst)
        echo "$bits-bits $(total "$report" bytes_out) $(total "$report" file_bytes_out)" \
            "$(total "$report" bits_per_weight) $(total "$report" cosine)" \
            "$(total "$report" sqnr_db) $worst $(of_tensor "$report" "$worst" sqnr_db)" \
            "$(ran "int$bits") $(total "$report" bytes_in) $(total "$report" seconds)"
    done
} >table.txt

title 'The same network, measured four times'
awk '
    function thousands(number,    out) {
        for (; length(number) > 3; number = substr(number, 1, length(number) - 3))
            out = "," substr(number, length(number) - 2) out
        return number out
    }
    function row(label, field, format,    model, text) {
        printf "%-32s", label
        for (model = 1; model <= NR; model++) {
            text = cell[field, model]
            if (format == "bytes") text = thousands(text)
            else if (format != "" && text != "-") text = sprintf(format, text)
            printf "%12s", text
        }
        print ""
    }
    {
        for (i = 1; i <= NF; i++) cell[i, NR] = $i
        sub(/-/, " ", cell[1, NR])
        cell[13, NR] = $12 > 0 ? $11 / $12 / 1e9 : "-"
        if (NF != 12) { print "demo: a figure is missing: " $0; bad = 1; exit 1 }
    }
    END {
        if (bad) exit 1
        row("", 1)
        row("tensors, bytes", 2, "bytes")
        row("file, bytes", 3, "bytes")
        row("bits per weight, with scales", 4, "%.2f")
        row("cosine with float32 weights", 5, "%.6f")
        row("SQNR, quantized weights (dB)", 6, "%.1f")
        row("SQNR, worst tensor (dB)", 8, "%.1f")
        row("    which is", 7)
        row("digits read right (%)", 9, "%.2f")
        row("pictures/s, one thread", 10, "%d")
        row("seconds to quantize and store", 12, "%.4f")
        row("    float32 weights, GB/s", 13, "%.2f")
    }' table.txt || exit 1

# --- Diffusion ------------------------------------------------------------------------------

title 'A diffusion model: 223,746 weights that turn noise into a spiral'
if [ -n "$(find diffusion.parquet -newer ../examples/train_diffusion 2>/dev/null)" ]; then
    echo 'diffusion.parquet and its calibration file are there from an earlier run'
else
    run train_diffusion
fi

title 'Samples from weights of 8, 4 and 2 bits and activations of 8, 6 and 4'
echo 'Distance of the samples from fresh data, with 95 % confidence intervals over 10 seeds:'
run tiny_diffusion

# --- A model from outside -------------------------------------------------------------------

title 'Weights alone: the decoder of TAESD for FLUX.2, quantized to 8, 4 and 2 bits'
decoder=../../../shared/models/taef2_decoder.safetensors
if [ -f "$decoder" ]; then
    for bits in 8 4 2; do
        run_to "taef2-int$bits.json" \
            aq quantize "$decoder" "taef2-int$bits.parquet" --bits "$bits" --json
    done
    for bits in 8 4 2; do
        report=taef2-int$bits.json
        echo "$bits $(total "$report" sqnr_db) $(total "$report" cosine)" \
            "$(total "$report" bits_per_weight) $(total "$report" file_bytes_out)"
    done | awk '
        BEGIN { print "bits   SQNR (dB)    cosine   bits per weight   file, KiB" }
        NF != 5 { print "demo: a figure is missing: " $0; exit 1 }
        { printf "%4d %11.1f %9.6f %17.2f %11.1f\n", $1, $2, $3, $4, $5 / 1024 }' || exit 1
else
    echo "left out: there is no ${decoder##*/} beside this repository"
fi

cat <<'END'

Next:
  open build/demo/tiny_diffusion.html in a browser: the samples side by side
  build/aq quantize build/demo/digits.parquet build/demo/mixed.parquet \
      --bits 2 --tensor 'fc3.weight=8'
  build/aq meta build/demo/digits-int4.parquet
  duckdb -c "SELECT layer_name, bit_width, sqnr_db FROM 'build/demo/digits-int4.parquet'"
END
