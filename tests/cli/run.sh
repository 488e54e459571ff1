#!/bin/sh
# Tests of the aq command: what it prints, where, and how it ends.
#
#   AQ=build/aq sh tests/cli/run.sh          UPDATE=1 rewrites golden/ instead of comparing,
#                                            NO_BROWSER=1 opens no page
#
# Prints "ok NAME" or "FAIL NAME" for each test, and last "N passed, N failed[, N skipped]".
# shellcheck disable=SC2016  # dollars in quotes are jq's
set -u

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
shared=$here/../../../shared
aq=${AQ:-$here/../../build/aq}
case $aq in /*) ;; *) aq=$PWD/$aq ;; esac
export TERM=xterm
unset NO_COLOR POSIXLY_CORRECT

w=$(mktemp -d) || exit 1
trap 'umount "$w/small_disk" 2>/dev/null; chmod -R u+w "$w"; rm -rf "$w"' EXIT
trap 'exit 130' INT TERM
gen=$w/bin/gen host=$w/bin/host table=$w/bin/table diffusion=$w/bin/diffusion
mkdir "$w/bin" || exit 1
for program in gen host table; do
    "${CC:-cc}" -O1 "$here/$program.c" -o "$w/bin/$program" || exit 1
done
# The header in it takes long to optimize.
"${CC:-cc}" -O0 "$here/diffusion.c" -o "$diffusion" -pthread -lm || exit 1
cd "$w" || exit 1

. "$here/../harness.sh"

# run EXIT ARGUMENT...: expect, of aq.
run() {
    wanted=$1
    shift
    expect "$wanted" "$aq" "$@"
}

# same FILE: its content is what stands on stdin.
same() {
    cat >"$w/wanted"
    cmp -s "$w/wanted" "$1" || fault "$(diff "$w/wanted" "$1" | head -20)"
}

out_is() { printf '%s\n' "$@" | same "$w/out"; }
err_is() { printf '%s\n' "$@" | same "$w/err"; }
quiet() { [ ! -s "$w/err" ] || fault "unexpected on stderr: $(head -c 300 "$w/err")"; }
silent() { [ ! -s "$w/out" ] || fault "unexpected on stdout: $(head -c 300 "$w/out")"; }
out_has() { grep -Eq -- "$1" "$w/out" || fault "stdout without /$1/: $(head -c 400 "$w/out")"; }
err_has() { grep -Eq -- "$1" "$w/err" || fault "stderr without /$1/: $(head -c 400 "$w/err")"; }
out_lacks() { ! grep -Eq -- "$1" "$w/out" || fault "stdout with /$1/"; }

# an_error LINE: nothing on stdout, and this one line on stderr.
an_error() {
    silent
    err_is "$@"
}

# usage_error LINE COMMAND: the line, and under it the usage of the command.
usage_error() {
    silent
    "$aq" "$2" --help | head -1 >"$w/usage"
    { echo "$1"; cat "$w/usage"; } | same "$w/err"
}

# golden NAME: stdout is golden/NAME.
golden() {
    if [ -n "${UPDATE:-}" ]; then cp "$w/out" "$here/golden/$1"; fi
    if [ -f "$here/golden/$1" ]; then
        same "$w/out" <"$here/golden/$1"
    else
        fault "no golden/$1"
    fi
}

# json FILTER VALUE: what jq makes of stdout.
json() {
    jq -c "$1" "$w/out" 2>"$w/jq" | head -20 >"$w/value"
    [ "$(cat "$w/value")" = "$2" ] || fault "$1 is $(cat "$w/value" "$w/jq"), not $2"
}

holds() { json "$1" true; }

# files FOLDER NAME...: it has these and no others, hidden ones included.
files() {
    folder=$1
    shift
    # shellcheck disable=SC2012  # the names are ours
    [ "$(ls -A "$folder" | tr '\n' ' ')" = "$*${*:+ }" ] ||
        fault "in $folder: $(ls -A "$folder" | tr '\n' ' '), not $*"
}

# big FILE: 96 MiB in 96 tensors.
big() {
    set -- "$1"
    i=100
    while [ $i -lt 196 ]; do
        set -- "$@" "t$i" F32 512x512 random
        i=$((i + 1))
    done
    file=$1
    shift
    "$gen" "$@" >"$file"
}

COMMANDS='inspect schema meta cat verify quantize config dequantize convert merge compare bench'

"$gen" layer.weight F32 4x64 ramp layer.bias F32 64 ramp half F16 2x3x8 ramp \
    ids I64 3 ramp none F32 0x4 ramp one F32 "" ramp \
    --metadata '{"note":"a \"b\" \u00fc"}' >small.safetensors
"$gen" w F32 256x512 random b F32 512 random ids I64 3 ramp >model.safetensors

# --- Command line ---------------------------------------------------------------------------

begin 'help'
run 0 --help
golden help
quiet
run 0 -h
golden help

begin 'help of each command'
for command in $COMMANDS; do
    run 0 "$command" --help
    golden "help-$command"
    quiet
    awk 'NR > 1 && length > 80' "$w/out" >"$w/long"
    [ ! -s "$w/long" ] || fault "wider than 80: $(cat "$w/long")"
done
run 0 quantize a b c --bits 3 -h
run 0 quantize --help a b c

begin 'version'
run 0 --version
out_has '^aq [0-9]+\.[0-9]+\.[0-9]+$'

begin 'no command'
run 2
silent
same "$w/err" <"$here/golden/help"

begin 'unknown command'
run 2 frobnicate
an_error 'aq: frobnicate: no such command; try aq --help'

begin 'unknown option'
for command in $COMMANDS; do
    run 2 "$command" a b --frobnicate
    usage_error "aq: $command: unknown option --frobnicate" "$command"
    run 2 "$command" -z a b
    usage_error "aq: $command: unknown option -z" "$command"
done

begin 'wrong use of options'
run 2 inspect --json=1 small.safetensors
usage_error 'aq: inspect: option --json=1 takes no value' inspect
run 2 quantize a b --bits
usage_error 'aq: quantize: option --bits needs a value (2|4|8)' quantize
run 2 quantize a b --bits 4 --bits 8
usage_error 'aq: quantize: option --bits is given twice' quantize
for threads in 0 -1 1025 x '' ' 4' 99999999999999999999; do
    run 2 quantize a b --threads "$threads"
    usage_error "aq: quantize: --threads takes a number from 1 to 1024, not \"$threads\"" quantize
done

begin 'shortened options'
run 0 quantize model.safetensors o.parquet --dry --symm
run 2 quantize a b --time 3
usage_error 'aq: quantize: option --time could be --time-groups, --time-split' quantize
run 2 quantize a b --no-s
usage_error 'aq: quantize: option --no-s could be --no-symmetric, --no-streaming' quantize
run 2 quantize a b --s=1
err_has '^aq: quantize: option --s could be --symmetric, --scales, '
run 2 quantize a b --=1
usage_error 'aq: quantize: unknown option --=1' quantize

begin 'operands'
run 2 inspect
usage_error 'aq: inspect: missing operand' inspect
run 2 compare a
usage_error 'aq: compare: missing operand' compare
run 2 inspect a b
usage_error 'aq: inspect: unexpected operand "b"' inspect
run 2 verify
usage_error 'aq: verify: missing operand' verify

begin 'options before, between and behind operands'
for arguments in '--bits 8 model.safetensors o.parquet --json' \
    'model.safetensors --json --bits 8 o.parquet' \
    'model.safetensors o.parquet --json --bits=8'; do
    # shellcheck disable=SC2086
    run 0 quantize $arguments
    json '.tensors[] | select(.name == "w").bit_width' 8
done
expect 0 env POSIXLY_CORRECT=1 "$aq" quantize model.safetensors o.parquet --json --bits 8
rm -f o.parquet

begin 'a file whose name begins with a dash'
cp small.safetensors ./--json
run 0 inspect --json -- --json
json .file '"--json"'

# --- inspect --------------------------------------------------------------------------------

begin 'inspect: text'
run 0 inspect small.safetensors
golden inspect-small
quiet

begin 'inspect: JSON'
run 0 inspect small.safetensors --json
golden inspect-small.json
json '[.format, .num_tensors, .num_params, .tensor_bytes]' '["safetensors",6,372,1404]'
json '.file_bytes' "$(wc -c <small.safetensors | tr -d ' ')"
json .metadata '{"note":"a \"b\" ü"}'
json '[.tensors[].name]' '["half","ids","layer.bias","layer.weight","none","one"]'
json '.tensors[0] | [.shape, .dtype, .quant_type, .bit_width, .group_size, .cosine]' \
    '[[2,3,8],"float16","none",0,null,null]'

begin 'inspect: names that would drive the terminal'
"$gen" 'a\u001b[31mred\u0007' F32 8 ramp 'b\"\\\n' F32 8 ramp 'cü\u202e\u0085' F32 8 ramp \
    >hostile.safetensors
run 0 inspect hostile.safetensors
out_has 'a\\x1b\[31mred\\x07'
out_has 'b"\\\\x0a'
out_has 'cü\\xe2\\x80\\xae\\xc2\\x85'
run 0 inspect hostile.safetensors --json
json '[.tensors[].name]' '["a\u001b[31mred\u0007","b\"\\\n","cü‮'"$(printf '\302\205')"'"]'

begin 'inspect: unreadable'
run 2 inspect missing.safetensors
an_error 'aq: missing.safetensors: cannot open: No such file or directory'
head -c 100 small.safetensors >cut.safetensors
run 2 inspect cut.safetensors
silent
err_has '^aq: cut.safetensors: .'
: >empty
run 2 inspect empty --json
silent
err_has '^aq: empty: .'

# --- quantize -------------------------------------------------------------------------------

begin 'quantize: text'
run 0 quantize model.safetensors q4.parquet --threads 1
quiet
out_has '^quantized 1 of 3 tensors; 2 kept as they are$'
out_has '^tensors  514 KiB -> [0-9.]+ KiB \([0-9.]+ %\), 32\.0[0-9] -> 4\.[0-9]+ bits per weight$'
out_has '^error    cosine 0\.9[0-9]+, SQNR [0-9.]+ dB, largest 0\.[0-9]+$'
out_has '^worst    w: cosine 0\.9[0-9]+, SQNR [0-9.]+ dB$'
out_has '^file     q4\.parquet, [0-9.]+ KiB$'
out_has '^time     [0-9.]+ s, [0-9.]+ [MG]B/s$'
out_lacks "$(printf '\033')"

begin 'quantize: JSON'
run 0 quantize model.safetensors o.parquet --json
quiet
json '[.operation, .input, .output, .dry_run]' \
    '["quantize","model.safetensors","o.parquet",false]'
json '[.num_tensors, .num_quantized, .num_params, .bytes_in]' '[3,1,131587,526360]'
json .file_bytes_out "$(wc -c <o.parquet | tr -d ' ')"
json .worst '"w"'
holds '.sqnr_db > 18 and .cosine > 0.99 and .max_abs_error < 0.1 and .seconds >= 0'
json '[.tensors[] | [.name, .quant_type, .bit_width, .group_size]]' \
    '[["b","none",0,null],["ids","none",0,null],["w","int4",4,128]]'
json '.tensors[] | select(.name == "b") | [.cosine, .sqnr_db, .mse, .max_abs_error]' \
    '[null,null,null,null]'
holds '.bytes_out == ([.tensors[].bytes_out] | add)'

begin 'quantize: what inspect says of it'
run 0 inspect q4.parquet
golden inspect-q4
run 0 inspect q4.parquet --json
json '[.format, .num_tensors]' '["parquet",3]'
json '.tensors[] | select(.name == "w") | [.shape, .dtype, .data_bytes, .bytes]' \
    '[[256,512],"float32",65536,73728]'
holds '.tensors[] | select(.name == "w") | .sqnr_db > 18 and .cosine > 0.99'

begin 'quantize: bits, groups, symmetric'
last=0
for bits in 2 4 8; do
    run 0 quantize model.safetensors o.parquet --bits $bits --group-size 32 --json
    json '.tensors[2] | [.bit_width, .group_size]' "[$bits,32]"
    sqnr=$(jq '.sqnr_db | floor' "$w/out")
    [ "$sqnr" -gt "$last" ] || fault "$bits bits: SQNR $sqnr after $last"
    last=$sqnr
done
run 0 quantize model.safetensors o.parquet --granularity channel --json
json '.tensors[2] | [.granularity, .group_size, .group_rows, .bytes_out]' '["channel",512,1,67584]'
run 0 quantize model.safetensors o.parquet --granularity tensor --json
json '.tensors[2] | [.granularity, .group_size, .group_rows, .bytes_out]' '["tensor",512,256,65544]'
run 0 inspect o.parquet --json
json '[.tensors[] | [.granularity, .group_rows]]' '[[null,null],[null,null],["tensor",256]]'
run 0 quantize model.safetensors o.parquet --symmetric --json
holds '.tensors[2].sqnr_db > 17'
for bits in 2 4 8; do
    run 0 quantize model.safetensors o.parquet --bits $bits --method minmax --json
    sqnr=$(jq '.sqnr_db' "$w/out")
    run 0 quantize model.safetensors o.parquet --bits $bits --method refine --json
    holds ".sqnr_db > $sqnr"
    run 0 meta o.parquet --json
    holds '[.. | strings] | any(contains("\"method\":\"refine\""))'
done

begin 'quantize: the default is refine'
run 0 quantize model.safetensors default.parquet
run 0 quantize model.safetensors o.parquet --method refine
cmp -s default.parquet o.parquet || fault 'other bytes'
run 0 quantize model.safetensors o.parquet --bits 2 --json
sqnr=$(jq .sqnr_db "$w/out")
run 0 quantize model.safetensors o.parquet --bits 2 --method search --json
holds ".sqnr_db > $sqnr"
run 0 meta o.parquet --json
holds '[.. | strings] | any(contains("\"method\":\"search\"}"))'
rm -f default.parquet

begin 'quantize: small parameters'
# Bytes of the 131,072 weights: codes, and for each row and group what FORMAT.md says.
for form in 'f16 82944' 'f16.--symmetric 74752' 'u8 75776' 'u8.--symmetric 70656' \
    'f32 98304' 'u8.--codebook 70656'; do
    options=$(echo "--group-size 32 --scales ${form% *}" | tr . ' ')
    # shellcheck disable=SC2086
    run 0 quantize model.safetensors o.parquet $options --json
    json '.tensors[2].bytes_out' "${form#* }"
    holds '.tensors[2].sqnr_db > 20'
    run 0 inspect o.parquet --json
    json '.tensors[2].bytes' "${form#* }"
    run 0 verify o.parquet
    out_has '^o\.parquet: ok \(3 tensors'
    run 0 dequantize o.parquet back.safetensors
    run 0 compare o.parquet back.safetensors --json
    json .total.sqnr_db '"Infinity"'
    run 0 convert o.parquet again.parquet
    run 0 compare o.parquet again.parquet --json
    json .total.sqnr_db '"Infinity"'
done
rm -f back.safetensors again.parquet
"$gen" a F32 8x256 random b F32 8x256 random c F32 8x256 random >abc.safetensors
run 0 quantize abc.safetensors small.parquet --codebook --group-size 16 --tensor 'b=8' \
    --tensor 'c=2'
run 0 inspect small.parquet
golden inspect-codebook
run 0 inspect small.parquet --json
json '[.tensors[] | [.quant_type, .bit_width, .params_type]]' \
    '[["codebook4",4,"uint8"],["int8",8,"uint8"],["codebook2",2,"uint8"]]'
run 0 schema small.parquet
golden schema-codebook
run 0 meta small.parquet --pages --json
json '[.row_groups[].columns[] | select(.path == "group_params").pages[].alignment >= 64] |
    unique' '[true]'
json '[.key_values[].value] | map(select(contains("uint8"))) | length' 1
run 0 cat small.parquet --columns scales,zero_points,params_type --rows 1
out_is '{"scales": [], "zero_points": [], "params_type": "uint8"}'
run 0 quantize abc.safetensors small.parquet --scales f16 --group-size 16 --dry-run
golden dry-run-f16
run 0 quantize abc.safetensors small.parquet --scales u8 --granularity channel
run 0 inspect small.parquet
out_has '^a  *8x256  *float32  *4  *row u8  *1\.08 KiB  *4\.31 '
run 0 compare abc.safetensors small.parquet
out_has '^a  *8x256  *float32  *4  *row u8  *0\.99'

begin 'quantize: values too large for small parameters'
"$gen" w F32 8x64 huge >huge.safetensors
run 2 quantize huge.safetensors huge.parquet --scales u8 --fail-fast
silent
err_has '^aq: huge\.safetensors: .* at index 1 .* is over 2\^120 \(tensor "w"\); store the parameters of this tensor as float32$'
[ ! -e huge.parquet ] || fault 'there is an output'

begin 'verify: damaged small parameters'
run 0 meta small.parquet --pages --json
at=$(jq '.row_groups[1].columns[] | select(.path == "group_params").pages[0].values_offset' \
    "$w/out")
cp small.parquet flipped.parquet
printf '\377\377\377\377' | dd of=flipped.parquet bs=1 seek="$at" conv=notrunc 2>/dev/null
run 1 verify flipped.parquet
silent
err_has '^aq: flipped\.parquet: .*CRC-32'
run 2 dequantize flipped.parquet back.parquet
err_has '^aq: flipped\.parquet: group_params hold NaN or infinity at row 0 \(tensor "b"\)'

begin 'quantize: wrong values'
run 2 quantize a b --method best
usage_error 'aq: quantize: --method takes minmax, refine, search or weighted, not "best"' quantize
run 2 quantize a b --method auto
usage_error 'aq: quantize: --method takes minmax, refine, search or weighted, not "auto"' quantize
run 2 quantize a b --method weighted
usage_error 'aq: quantize: --method weighted needs a calibration, which says how much each column counts: give --calibration FILE' quantize
run 2 quantize a b --scales f64
usage_error 'aq: quantize: --scales takes f32, f16 or u8, not "f64"' quantize
run 2 quantize a b --codebook --bits 8
usage_error 'aq: quantize: --codebook is for 2 or 4 bits, not 8' quantize
run 2 quantize a b --symmetric --codebook
usage_error 'aq: quantize: --codebook is for 2 or 4 bits, not --symmetric' quantize
for scales in f32 f16; do
    run 2 quantize a b --codebook --scales $scales
    usage_error 'aq: quantize: --codebook has --scales u8 only' quantize
done
for small in '--scales f16' '--scales u8' --codebook; do
    # shellcheck disable=SC2086
    run 2 quantize a b --granularity tensor $small
    usage_error 'aq: quantize: --granularity tensor has --scales f32 only, and no --codebook' \
        quantize
done
for bits in 0 1 3 5 16 x ''; do
    run 2 quantize a b --bits "$bits"
    usage_error "aq: quantize: --bits takes 2, 4 or 8, not \"$bits\"" quantize
done
run 2 quantize a b --group-size 7
usage_error 'aq: quantize: --group-size takes a number from 8, not "7"' quantize
run 2 quantize a b --granularity row
usage_error 'aq: quantize: --granularity takes group, channel or tensor, not "row"' quantize
run 2 quantize a b --granularity channel --group-size 64
usage_error 'aq: quantize: --group-size has a meaning with --granularity group only' quantize

begin 'quantize: --tensor and --keep'
many="blocks.0.w F32 8x64 random blocks.1.w F32 8x64 random blocks.1.b F32 64 random ids I64 8x8 ramp"
# shellcheck disable=SC2086
"$gen" $many >many.safetensors
bits='[.tensors[] | .bit_width]'
run 0 quantize many.safetensors o.parquet --json
json "$bits" '[4,0,4,0]'
run 0 quantize many.safetensors o.parquet --json --tensor '^blocks\.1=2'
json "$bits" '[4,2,2,0]'
run 0 quantize many.safetensors o.parquet --json --tensor '.=8' --tensor '(0|9)\.w$=2'
json "$bits" '[2,8,8,0]'
run 0 quantize many.safetensors o.parquet --json --tensor '(0|9)\.w$=2' --tensor '.=8'
json "$bits" '[8,8,8,0]'
run 0 quantize many.safetensors o.parquet --json --keep '1\.w' --tensor '1\.w=8' --tensor '0=8'
json "$bits" '[8,0,0,0]'
"$gen" 'a=b' F32 8x64 random >equals.safetensors
run 0 quantize equals.safetensors o.parquet --json --tensor 'a=b=2'
json "$bits" '[2]'
rm -f o.parquet

begin 'quantize: rules that are mistakes'
run 2 quantize many.safetensors o.parquet --tensor 'blocks\.7=4'
an_error 'aq: many.safetensors: no float tensor has a name that matches --tensor blocks\.7=4'
run 2 quantize many.safetensors o.parquet --tensor 'ids=4'
an_error 'aq: many.safetensors: no float tensor has a name that matches --tensor ids=4'
run 2 quantize many.safetensors o.parquet --keep 'nothing'
an_error 'aq: many.safetensors: no tensor has a name that matches --keep nothing'
for rule in 'w' 'w=' 'w=3' 'w=4x'; do
    run 2 quantize many.safetensors o.parquet --tensor "$rule"
    usage_error "aq: quantize: --tensor takes REGEX=BITS with 2, 4 or 8 bits, not \"$rule\"" \
        quantize
done
run 2 quantize many.safetensors o.parquet --keep '('
err_has '^aq: quantize: --keep takes a regular expression, not "\(": .'
[ ! -e o.parquet ] || fault 'there is an output'

begin 'quantize: --dry-run writes nothing'
mkdir dry
run 0 quantize many.safetensors dry/o.parquet --dry-run --bits 8 --tensor '0=2'
golden dry-run
quiet
run 0 quantize many.safetensors dry/o.parquet --dry-run --bits 8 --tensor '0=2' --json
json '[.dry_run, .file_bytes_out, .cosine]' '[true,null,null]'
dry=$(jq -c '[.bytes_out, [.tensors[].bytes_out]]' "$w/out")
files dry
run 0 quantize many.safetensors o.parquet --bits 8 --tensor '0=2' --json
json '[.bytes_out, [.tensors[].bytes_out]]' "$dry"
run 0 quantize many.safetensors dry/o.parquet --dry-run --min-cosine 0.99
err_is 'aq: many.safetensors: note: the plan is without --min-cosine: tensors below it may become larger'
run 0 quantize many.safetensors dry/o.parquet --dry-run --min-cosine 0
quiet
run 0 quantize many.safetensors dry/o.parquet --dry-run --min-cosine 0.5 --target-bpw 20
quiet # the bits are chosen by it

begin 'quantize: the same bytes for any number of threads'
run 0 quantize model.safetensors t1.parquet --threads 1
run 0 quantize model.safetensors t2.parquet --threads 2
run 0 quantize model.safetensors t7.parquet --threads 7
for threads in 2 7; do
    cmp -s t1.parquet t$threads.parquet || fault "$threads threads: other bytes"
done

begin 'quantize: a NaN is named, and with --fail-fast nothing is written'
mkdir nan
"$gen" good F32 8x64 random 'bad one' F32 8x64 nan >nan.safetensors
run 2 quantize nan.safetensors nan/o.parquet --fail-fast
silent
err_has '^aq: nan\.safetensors: .*bad one.*'
[ "$(wc -l <"$w/err")" -eq 1 ] || fault 'more than one line'
files nan

begin 'quantize: what cannot be quantized is kept, and told'
"$gen" good F32 8x64 random 'bad one' F32 8x64 nan >nan.safetensors
run 1 quantize nan.safetensors kept.parquet
out_has '^quantized 1 of 2 tensors; 1 kept as it is$'
[ "$(wc -l <"$w/err")" -eq 1 ] || fault 'not one line'
err_has '^aq: nan\.safetensors: tensor "bad one" is kept as it came: .*1'
run 0 inspect kept.parquet --json
json '[.tensors[] | [.name, .bit_width]]' '[["bad one",0],["good",4]]'
run 1 quantize nan.safetensors kept.parquet --json --report nan.html
json '[.num_failed, [.tensors[] | .error != null]]' '[1,[true,false]]'
cp nan.html "$w/out"
out_has '<th class="l n" scope="row">bad one</th><td class="l n">kept: '
rm -f kept.parquet nan.html

begin 'quantize: --min-cosine'
run 0 quantize abc.safetensors o.parquet --bits 2 --min-cosine 0.99 --json
json '[.tensors[] | [.bit_width, [.attempts[].bits]]]' '[[4,[2,4]],[4,[2,4]],[4,[2,4]]]'
holds 'all(.tensors[]; .attempts[0].cosine < 0.99 and .attempts[1].cosine == .cosine and .cosine >= 0.99)'
run 0 quantize abc.safetensors direct.parquet --bits 4 --json
sqnr=$(jq .sqnr_db "$w/out")
run 0 quantize abc.safetensors o.parquet --bits 2 --min-cosine 0.99 --tensor b=8 --report gate.html
out_has '^again    a: 2 bits 0\.[0-9]{4}, 4 bits 0\.99[0-9]{2}$'
out_lacks '^again    b'
cp gate.html "$w/out"
out_has '<th class="l n" scope="row">c</th><td class="l n">2 bits 0\.[0-9]{4}, 4 bits 0\.99'
run 0 quantize abc.safetensors o.parquet --bits 2 --min-cosine 0.99 --json
holds ".sqnr_db == $sqnr"
run 0 quantize abc.safetensors o.parquet --bits 2 --min-cosine 1
out_has '^quantized 0 of 3 tensors; 3 kept as they are$'
run 0 quantize abc.safetensors o.parquet --bits 8 --min-cosine 1
out_has '^again    a: 8 bits (0\.9999|1\.0000), kept$'
run 2 quantize abc.safetensors never.parquet --bits 2 --min-cosine 0.99 --fail-fast
silent
err_has '^aq: abc\.safetensors: cosine 0\.[0-9]+ with 2 bits is under 0\.99 \(tensor "a"\); '
[ ! -e never.parquet ] || fault 'there is an output'
run 0 quantize abc.safetensors o.parquet --bits 2 --min-cosine 0
json_bits=$("$aq" inspect o.parquet --json | jq -c "$bits")
[ "$json_bits" = '[2,2,2]' ] || fault "$json_bits"

begin 'quantize: --target-bpw and --target-size'
for bpw in 3.5 5 8.75; do
    run 0 quantize model.safetensors o.parquet --keep '^(b|ids)$' --target-bpw $bpw --json
    holds ".bits_per_weight <= $bpw"
done
run 0 quantize abc.safetensors o.parquet --target-size 4K --json --report gate.html
! grep -q Exceptions gate.html || fault 'exceptions, without a bound'
holds '.bytes_out <= 4096 and .bytes_out > 3000'
run 0 quantize abc.safetensors o.parquet --target-size 4KiB --no-streaming --json
holds '.bytes_out <= 4096 and .bytes_out > 3000'
run 0 quantize abc.safetensors o.parquet --target-size 4K --tensor '^b$=2' --tensor '^c$=8' --json
holds '.bytes_out <= 4096 and ([.tensors[].bit_width] == [4, 2, 8])'
run 2 quantize abc.safetensors never.parquet --target-size 1KB
silent
err_has '^aq: abc\.safetensors: 1000 bytes cannot be reached'
run 2 quantize a b --target-size 1M --target-bpw 4
usage_error 'aq: quantize: --target-size and --target-bpw exclude each other' quantize

begin 'quantize: the same bytes however the job goes'
run 0 quantize model.safetensors one.parquet --max-memory 4M --threads 2
for options in '--no-streaming --threads 1' '--no-streaming --threads 3' --streaming; do
    # shellcheck disable=SC2086
    run 0 quantize model.safetensors two.parquet $options
    cmp -s one.parquet two.parquet || fault "$options: other bytes"
done
rm -f one.parquet two.parquet direct.parquet gate.html

begin 'quantize: sizes and numbers'
for size in 0 -1 x 1X 1k '1 M' 0x10 0X10M '' 1e99T .5G 1MiBs 99999999T; do
    run 2 quantize a b --max-memory "$size"
    usage_error "aq: quantize: --max-memory takes a size such as 512M or 1.5GiB, not \"$size\"" \
        quantize
done
for number in -0.1 1.01 x '' nan inf 0x1 0,5 .5; do
    run 2 quantize a b --min-cosine "$number"
    usage_error "aq: quantize: --min-cosine takes a number from 0 to 1, not \"$number\"" quantize
done
for number in 0X1 0X0; do
    run 2 quantize a b --min-cosine $number
    usage_error "aq: quantize: --min-cosine takes a number from 0 to 1, not \"$number\"" quantize
done
run 2 quantize a b --target-bpw 0.9
usage_error 'aq: quantize: --target-bpw takes a number from 1 to 64, not "0.9"' quantize

begin 'quantize: not a model'
echo '{"a": 1}' >text.json
run 2 quantize text.json o2.parquet
silent
err_has '^aq: text\.json: .'
run 2 quantize missing.safetensors o2.parquet
an_error 'aq: missing.safetensors: cannot open: No such file or directory'
[ ! -e o2.parquet ] || fault 'there is an output'

# --- Configuration ----------------------------------------------------------------------------

# settings FILE: what it sets, without remarks.
settings() { sed 's/  # .*//; /^#/d; /^$/d' "$1"; }

# yaml LINE...: c.yaml with these lines.
yaml() { printf '%s\n' "$@" >c.yaml; }

# bad_yaml MESSAGE LINE...: a file with these lines is refused with that, and nothing is written.
bad_yaml() {
    message=$1
    shift
    yaml "$@"
    run 2 quantize model.safetensors never.parquet --config c.yaml
    an_error "aq: c.yaml: $message"
    [ ! -e never.parquet ] || fault 'there is an output'
}

KEYS='bits, group-size, granularity, symmetric, method, scales, codebook, tensor, keep, min-cosine, target-bpw, target-size, fail-fast, calibration, time-groups, time-split, activation-bits, optimize-groups, smooth-groups, smooth-window, equalize, smooth-input, modality, max-memory, streaming, chunk-size, io, profile, threads'
: >none.yaml
if "$aq" config --config none.yaml 2>&1 | grep -q 'without libyaml'; then with_yaml=; else with_yaml=1; fi

begin 'config: profiles'
run 0 config --profile edge
golden config-edge
quiet
run 0 config
golden config
for profile in 'edge 2 256 0.65 5 false true' 'local 4 128 0.85 10 true true' \
    'cloud 8 64 0.95 20 true false'; do
    # shellcheck disable=SC2086
    set -- $profile
    run 0 config --profile "$1"
    settings "$w/out" >"$w/settings"
    echo "profile: $1" | same "$w/settings"
    sed -n "s/^#\(.*\)  # profile $1\$/\1/p" "$w/out" >"$w/settings"
    printf '%s\n' "bits: $2" "group-size: $3" "min-cosine: $4" "time-groups: $5" \
        "equalize: $6" "streaming: $7" | same "$w/settings"
    run 0 quantize model.safetensors profile.parquet --profile "$1" --json
    json '.tensors[2] | [.bit_width, .group_size]' "[$2,$3]"
done
run 2 config --profile laptop
usage_error 'aq: config: --profile takes edge, local or cloud, not "laptop"' config
run 2 quantize a b --profile ''
usage_error 'aq: quantize: --profile takes edge, local or cloud, not ""' quantize
for wrong in '--bits 5' '--tensor w=5' '--keep (' '--granularity channel --group-size 8' \
    '--threads 0'; do
    # shellcheck disable=SC2086
    run 2 config $wrong
    silent
done

begin 'config: a flag can be taken back'
run 0 config --symmetric --no-symmetric --no-codebook --codebook
settings "$w/out" >"$w/settings"
printf 'symmetric: false\ncodebook: true\n' | same "$w/settings"
run 2 config --no-bits
usage_error 'aq: config: unknown option --no-bits' config
run 2 config --no-symmetric=1
usage_error 'aq: config: option --no-symmetric=1 takes no value' config
run 2 inspect --no-json small.safetensors
usage_error 'aq: inspect: unknown option --no-json' inspect

begin 'config: aq builds without libyaml'
expect 0 "${CC:-cc}" -std=c99 -Wall -Wextra -Werror -pedantic -fsyntax-only \
    "$here/../../tools/aq_config.c"

if [ -n "$with_yaml" ]; then

begin 'config: what is printed reads back'
long=$(head -c 1500 /dev/zero | tr '\0' x)
run 0 config --bits 2 --group-size 32 --method search --scales f16 --symmetric --threads 2 \
    --tensor '^layers\.(0|31)\.=8' --tensor "it's \"so\"=4" --tensor 'a=b: #=2' \
    --tensor 'weißß名=4' --tensor "$(printf 'tab\there\302\205\342\200\250')=8" \
    --tensor "($long|w)=8" --tensor 'a=b: #=4' --tensor 'null=2' --tensor '=4' \
    --keep null --keep '~' --keep '- x' --keep '[{]}' --keep '&a' --keep "$(printf 'two\nlines')"
cp "$w/out" first.yaml
run 0 config --config first.yaml
settings first.yaml >first
settings "$w/out" >second
same second <first
[ "$(grep -c . first)" -eq 23 ] || fault "$(grep -c . first) lines"
run 2 config --keep "$(printf '\377')"
silent
err_has '^aq: config: --keep is not UTF-8, as YAML is$'
for options in '--profile edge' '--profile cloud --granularity channel --scales u8' \
    '--bits 8 --tensor w=2 --keep ids'; do
    # shellcheck disable=SC2086
    run 0 config $options
    cp "$w/out" c.yaml
    # shellcheck disable=SC2086
    run 0 quantize model.safetensors one.parquet $options
    run 0 quantize model.safetensors two.parquet --config c.yaml
    cmp -s one.parquet two.parquet || fault "$options: other bytes"
done
rm -f one.parquet two.parquet
for file in 'two words.yaml' "$(printf 'x\357\277\277.yaml')" "$(printf 'x\377.yaml')"; do
    echo 'bits: 2' >"$file"
    run 0 config --config "$file" # which its output names
    cp "$w/out" c.yaml
    run 0 config --config c.yaml
    out_has '^bits: 2  # c\.yaml, line [0-9]+$'
    rm -f "$file"
done

begin 'config: flags win over the file, the file over the profile'
both='.tensors[2] | [.bit_width, .group_size]'
yaml 'profile: edge' 'bits: 8'
run 0 quantize model.safetensors o.parquet --config c.yaml --json
json "$both" '[8,256]'
run 0 quantize model.safetensors o.parquet --config c.yaml --group-size 16 --json
json "$both" '[8,16]'
run 0 quantize model.safetensors o.parquet --group-size 16 --config c.yaml --profile cloud --json
json "$both" '[8,16]'
run 0 quantize model.safetensors o.parquet --config c.yaml --profile cloud --bits 4 --json
json "$both" '[4,64]'
run 0 quantize model.safetensors o.parquet --config c.yaml --granularity channel --json
json "$both" '[8,512]'
yaml 'granularity: channel' 'symmetric: true' 'profile: local'
run 0 quantize model.safetensors o.parquet --config c.yaml --json
json "$both" '[4,512]'
run 0 quantize model.safetensors o.parquet --config c.yaml --group-size 64 --no-symmetric --json
json "$both" '[4,64]'
run 0 config --config c.yaml --no-symmetric --bits 2
settings "$w/out" >"$w/settings"
printf '%s\n' 'profile: local' 'bits: 2' 'granularity: channel' 'symmetric: false' |
    same "$w/settings"
out_has '^bits: 2  # command line$'
out_has '^granularity: channel  # c\.yaml, line 1$'
yaml 'tensor:' '  w: 2' '  "b$": 8' 'keep: b' 'threads: 1'
run 0 quantize model.safetensors o.parquet --config c.yaml --json
json "$bits" '[0,0,2]'
run 0 quantize model.safetensors o.parquet --config c.yaml --tensor 'w=8' --keep ids --json
json "$bits" '[0,0,8]'

echo 'target-bpw: 4' >c.yaml
run 0 config --config c.yaml --target-size 1M
out_has '^target-size: 1M  # command line$'
out_lacks '^target-bpw'

begin 'config: forms of YAML'
for form in '{bits: 2, keep: [b, ids]}' '"bits": "2"' '--- # one
bits: 2
...' "$(printf '\357\273\277bits: 2')" "$(printf 'bits: 2\r\nkeep:\r\n- b\r\n')" '? bits
: 2'; do
    yaml "$form"
    run 0 quantize model.safetensors o.parquet --config c.yaml --json
    json "$bits" '[0,0,2]'
done
for form in '' '# nothing' '{}' 'keep: []' 'tensor: {}'; do
    yaml "$form"
    run 0 quantize model.safetensors o.parquet --config c.yaml --json
    json "$bits" '[0,0,4]'
done
rm -f o.parquet

begin 'config: is no output'
yaml 'bits: 2'
cp c.yaml keep.yaml
for output in c.yaml ./c.yaml; do
    run 2 quantize model.safetensors $output --config c.yaml
    an_error "aq: $output: cannot write: it is the configuration; choose another name"
done
cmp -s c.yaml keep.yaml || fault 'the configuration was changed'

begin 'config: bad YAML'
bad_yaml "line 2: unknown key \"bitz\": the keys are $KEYS" 'bits: 4' 'bitz: 2'
bad_yaml "line 1: unknown key \"config\": the keys are $KEYS" 'config: c.yaml'
bad_yaml "line 1: unknown key \"<<\": the keys are $KEYS" '<<: {bits: 2}'
bad_yaml "line 1: unknown key \"\": the keys are $KEYS" '"": 2'
bad_yaml "line 1: a list or mapping as a key: the keys are $KEYS" '[bits]: 2'
bad_yaml 'line 3: key bits is there twice (first in line 1): keep one' \
    'bits: 4' 'threads: 1' 'bits: 4'
bad_yaml 'line 2: key keep is there twice (first in line 1): keep one' 'keep: []' 'keep: [b]'
bad_yaml 'line 3: "w" is there twice (first in line 2)' 'tensor:' '  w: 4' '  w: 4'
bad_yaml 'line 1: bits takes 2|4|8, not a list or mapping of them' 'bits: [4]'
bad_yaml 'line 2: bits takes 2|4|8, not a list or mapping of them' 'bits:' '  of: 4'
bad_yaml 'line 1: bits takes 2, 4 or 8, not "four"' 'bits: four'
bad_yaml 'line 1: bits takes 2, 4 or 8, not "4.0"' 'bits: 4.0'
bad_yaml 'line 1: bits has no value: it takes 2|4|8' 'bits:'
bad_yaml 'line 1: bits has no value: it takes 2|4|8' 'bits: ~'
bad_yaml 'line 1: method has no value: it takes minmax|refine|search|weighted' 'method: null'
bad_yaml 'line 1: threads takes a number from 1 to 1024, not "0"' 'threads: 0'
bad_yaml 'line 2: group-size takes a number from 8, not "-8"' '' 'group-size: -8'
bad_yaml 'line 1: profile takes edge, local or cloud, not "laptop"' 'profile: laptop'
for flag in yes 1 '"true"' ''; do
    bad_yaml "line 1: symmetric takes true or false, not \"$(echo "$flag" | tr -d \")\"" \
        "symmetric: $flag"
done
bad_yaml 'line 1: symmetric takes true or false, not a list or mapping' 'symmetric: [true]'
bad_yaml 'line 2: keep takes items that are each REGEX, not a list or mapping of them' \
    'keep:' '  - [w]'
bad_yaml 'line 1: keep takes items that are each REGEX, not a list or mapping of them' \
    'keep: {w: 4}'
bad_yaml 'line 1: keep has no value: it takes REGEX' 'keep: [~]'
bad_yaml 'line 1: tensor takes lines below it that are each REGEX: BITS' 'tensor: w=4'
bad_yaml 'line 1: tensor takes lines below it that are each REGEX: BITS' 'tensor: [w=4]'
bad_yaml 'line 1: tensor takes REGEX: BITS with 2, 4 or 8 bits, not "5"' 'tensor: {w: 5}'
bad_yaml 'line 1: tensor takes items that are each REGEX=BITS, not a list or mapping of them' \
    'tensor: {w: {bits: 4}}'
bad_yaml 'line 1: keep takes a regular expression, not "(": Unmatched ( or \(' 'keep: ['\''('\'']'
bad_yaml 'line 3: no tensor of the model has a name that matches keep x' 'keep:' '- w' '- x'
bad_yaml 'line 1: no float tensor of the model has a name that matches tensor ids=4' \
    'tensor: {ids: 4}'
bad_yaml 'line 2: group-size has a meaning with --granularity group only' \
    'granularity: tensor' 'group-size: 32'
bad_yaml 'line 1: codebook is for 2 or 4 bits, not 8' 'codebook: true' 'bits: 8'
bad_yaml 'line 1: anchor &a: take it out, there are no aliases here' 'bits: &a 4'
bad_yaml 'line 1: anchor &a: take it out, there are no aliases here' 'keep: &a [w]'
bad_yaml 'line 1: anchor &a: take it out, there are no aliases here' '&a {bits: 4}'
bad_yaml 'line 1: alias *a: write the value itself in its place' 'bits: *a'
bad_yaml 'line 1: tag tag:yaml.org,2002:int: take it out, a key knows its type' 'bits: !!int 4'
bad_yaml 'line 2: a second document: keep one' 'bits: 4' '---' 'bits: 4'
for form in 'bits' '- bits' '[]'; do
    bad_yaml 'line 1: no settings: write each as NAME: VALUE' "$form"
done
bad_yaml 'line 2: no settings: write each as NAME: VALUE' '---'
bad_yaml 'line 1: a value with a NUL in it: take it out' 'keep: ["a\0b"]'
for form in 'bits: "4' 'bits: 4: 2' '{bits: 4' ': 2' 'keep: [w' '%YAML 3.0' "$(printf '\tbits: 4')" \
    'bits: @4' "$(printf 'keep: [w\001]')" "$(printf 'keep: [\377]')"; do
    yaml "$form"
    run 2 quantize model.safetensors never.parquet --config c.yaml
    silent
    err_has '^aq: c\.yaml: line [1-3]: [a-z#].*\((column|offset) [0-9]+\)'
    [ "$(wc -l <"$w/err")" -eq 1 ] || fault "$form: more than one line"
done
printf 'bits: 4\n' | iconv -f ASCII -t UTF-16 >c.yaml
run 2 quantize model.safetensors never.parquet --config c.yaml
err_has '^aq: c\.yaml: line 1: .*: write the file as UTF-8 text$'

begin 'config: too much'
{ echo 'keep:'; i=0; while [ $i -le 1000 ]; do echo "- w"; i=$((i + 1)); done; } >c.yaml
run 2 quantize model.safetensors never.parquet --config c.yaml
an_error 'aq: c.yaml: line 1002: more than 1000 settings: join regular expressions by |'
head -n 501 c.yaml >half.yaml
set --
while [ $# -lt 1200 ]; do set -- "$@" --keep w; done
run 2 config --config half.yaml "$@" # what could not be read again
silent
err_has '^aq: the configuration: line [0-9]+: more than 1000 settings: join regular expressions by \|$'
head -c 1048577 /dev/zero | tr '\0' '#' >c.yaml
run 2 quantize model.safetensors never.parquet --config c.yaml
an_error 'aq: c.yaml: over 1 MiB: is this a configuration?'
head -c 1048576 /dev/zero | tr '\0' '#' >c.yaml
run 0 config --config c.yaml
for mark in '[' '{' '- ' '? ' '"a": ['; do
    head -c 1048000 /dev/zero | sed "s/[^x]/${mark}/g" | head -c 1048000 >c.yaml
    run 2 config --config c.yaml
    silent
done
run 2 config --config nowhere.yaml
an_error 'aq: nowhere.yaml: cannot open: No such file or directory'
run 2 config --config .
an_error 'aq: .: cannot read: Is a directory'

else
    begin 'config: files'
    run 2 config --config none.yaml
    an_error 'aq: none.yaml: this aq was built without libyaml and reads no configuration: install libyaml-dev and build it again'
    skip 'aq was built without libyaml'
fi

# --- Diffusion --------------------------------------------------------------------------------

# Of conv.w at 20 timesteps, of fc.w at 6, out of order.
mkdir diff
"$gen" conv.w F32 16x32 random fc.w F32 8x64 random time.b F32 8 ramp \
    --metadata '{"model_type":"stable-diffusion"}' >diff/model.safetensors
steps=0,50,100,150,200,250,300,350,400,450,500,550,600,650,700,750,800,850,900,950
"$diffusion" calibration diff/calib.parquet conv.w 32 $steps grow fc.w 64 400,0,900,200,800,600 grow
groups='[.tensors[] | .time | if . then .num_groups else null end]'

begin 'calibration: time groups'
run 0 quantize diff/model.safetensors diff/o.parquet --calibration diff/calib.parquet
quiet
out_has '^quantized 2 of 3 tensors; 1 kept as it is$'
out_has '^groups   2 tensors with 6 to 10 time groups, [0-9]+ violations; least smooth fc\.w, 0\.[0-9]{3}$'
run 0 quantize diff/model.safetensors diff/o.parquet --calibration diff/calib.parquet --json
quiet
json "$groups" '[10,6,null]'
holds '[.tensors[:2][].time] | all(.[]; .smoothness > 0 and .smoothness < 1 and .worst_score < 1 and
    .num_violations >= 1)'
run 0 inspect diff/o.parquet --time --json
json .modality '"image"'
json '[.tensors[].time | if . then [.groups[0].start, .groups[-1].end] else null end]' \
    '[[0,951],[0,951],null]'
holds '[.tensors[].time | select(.) | .groups] |
    all(.[]; [range(1; length) as $i | .[$i].start == .[$i - 1].end] | all)'
run 0 dequantize diff/o.parquet diff/back.safetensors
out_lacks '^groups'
err_has '^aq: diff/o\.parquet: note: diff/back\.safetensors: safetensors has no place for .* of 2 tensors .*, which is left out$'
run 0 dequantize diff/o.parquet diff/back.parquet
quiet
run 0 quantize model.safetensors o.parquet
out_lacks '^groups'
run 0 quantize model.safetensors o.parquet --json
json "$groups" '[null,null,null]'

begin 'calibration: --time-groups, --time-split, --activation-bits, --modality'
for n in 1 3 6; do
    run 0 quantize diff/model.safetensors diff/o.parquet --calibration diff/calib.parquet \
        --time-groups $n --json
    json "$groups" "[$n,$n,null]"
done
run 0 quantize diff/model.safetensors diff/o.parquet --calibration diff/calib.parquet --time-groups 1
out_has '^groups   2 tensors with 1 time group, 0 violations; least smooth conv\.w, 1\.000$'
run 0 quantize diff/model.safetensors diff/equal.parquet --calibration diff/calib.parquet \
    --time-groups 4 --time-split equal --activation-bits 5 --modality audio
run 0 inspect diff/equal.parquet --time --json
json .modality '"audio"'
json '[.tensors[0].time.groups[] | [.start, .end]]' '[[0,225],[225,475],[475,725],[725,951]]'
json '[.tensors[].time | select(.) | .groups[].bits] | unique' '[5]'
run 0 quantize diff/model.safetensors diff/similar.parquet --calibration diff/calib.parquet \
    --time-groups 4 --time-split similar
run 0 inspect diff/similar.parquet --time --json
holds '[.tensors[0].time.groups[] | [.start, .end]] != [[0,225],[225,475],[475,725],[725,951]]'
json '[.tensors[].time | select(.) | .groups[].bits] | unique' '[8]'
for wrong in 'time-groups 0:a number from 1 to 256' 'time-groups 257:a number from 1 to 256' \
    'time-groups x:a number from 1 to 256' 'time-split even:similar or equal' \
    'activation-bits 3:a number from 4 to 8' 'activation-bits 9:a number from 4 to 8' \
    'smooth-groups cosine:linear, cubic or sigmoid' 'smooth-window 0:a number from 1 to 20' \
    'smooth-window 21:a number from 1 to 20' 'smooth-input 1.5:a number from 0 to 1' \
    'smooth-input x:a number from 0 to 1' 'modality video:text, code, image or audio'; do
    option=${wrong%%:*}
    # shellcheck disable=SC2086
    run 2 quantize a b --calibration c --$option
    usage_error "aq: quantize: --${option% *} takes ${wrong#*:}, not \"${option#* }\"" quantize
done
run 2 quantize a b --calibration c --smooth-window 2
usage_error 'aq: quantize: --smooth-window has a meaning with --smooth-groups only' quantize
for option in 'time-groups 4' 'time-split equal' 'activation-bits 8' 'modality text' \
    optimize-groups 'smooth-groups linear' equalize 'smooth-input 0.5'; do
    # shellcheck disable=SC2086
    run 2 quantize model.safetensors never.parquet --$option
    usage_error "aq: quantize: --${option% *} has a meaning with --calibration FILE only" quantize
done
[ ! -e never.parquet ] || fault 'there is an output'
run 0 quantize model.safetensors o.parquet --no-equalize --no-optimize-groups

begin 'calibration: columns count by it'
"$diffusion" calibration diff/columns.parquet conv.w 32 0,100,200 columns fc.w 64 0,100,200 columns
for method in refine weighted; do
    run 0 quantize diff/model.safetensors diff/$method.parquet --bits 2 --method $method \
        --calibration diff/columns.parquet
done
run 0 quantize diff/model.safetensors diff/default.parquet --bits 2 \
    --calibration diff/columns.parquet
cmp -s diff/default.parquet diff/weighted.parquet || fault 'weighted is not the default'
run 0 compare diff/model.safetensors diff/refine.parquet --json
jq .total.sqnr_db "$w/out" >"$w/refined"
run 0 compare diff/model.safetensors diff/weighted.parquet --json
holds ".total.sqnr_db < $(cat "$w/refined")"

begin 'calibration: --optimize-groups, --smooth-groups'
tuned='.tensors[0].time | [.optimized, .smoothed]'
run 0 quantize diff/model.safetensors diff/o.parquet --calibration diff/calib.parquet --json
json "$tuned" '[null,null]'
jq '.tensors[0].time.input_sqnr_db' "$w/out" >"$w/plain"
run 0 quantize diff/model.safetensors diff/o.parquet --calibration diff/calib.parquet --json \
    --optimize-groups
holds "$tuned | .[0].mse_after < .[0].mse_before and .[0].changed > 0 and .[1] == null"
holds ".tensors[0].time.input_sqnr_db > $(cat "$w/plain")"
for curve in linear cubic sigmoid; do
    run 0 quantize diff/model.safetensors diff/$curve.parquet --calibration diff/calib.parquet \
        --json --time-groups 6 --smooth-groups $curve --smooth-window 2
    holds "$tuned"' | .[0] == null and .[1].mse_after <= .[1].mse_before and
        .[1].changed + .[1].refused == 5'
done
run 0 quantize diff/model.safetensors diff/o.parquet --calibration diff/calib.parquet \
    --optimize-groups --smooth-groups cubic
out_has '^tuned    [0-9]+ steps of scale or zero point; [0-9]+ boundar(y|ies) smoothed, [0-9]+ left alone as the error would rise$'
out_has '^inputs   worst (conv|fc)\.w: SQNR [0-9.]+ dB$'
out_has '^outputs  worst (conv|fc)\.w: SQNR [0-9.]+ dB, [0-9.]+ with exact inputs$'
run 0 quantize diff/model.safetensors diff/o.parquet --calibration diff/calib.parquet \
    --optimize-groups
out_has '^tuned    [0-9]+ steps? of scale or zero point$'

begin 'calibration: --equalize, --smooth-input'
run 0 quantize diff/model.safetensors diff/plain.parquet --calibration diff/columns.parquet \
    --activation-bits 4 --json
json '[.tensors[].time | if . then .scaled else null end]' '[false,false,null]'
jq '.tensors[0].time.output_sqnr_db' "$w/out" >"$w/plain"
run 0 quantize diff/model.safetensors diff/equalized.parquet --calibration diff/columns.parquet \
    --activation-bits 4 --equalize --json
json '[.tensors[].time | if . then .scaled else null end]' '[true,true,null]'
holds ".tensors[0].time | .output_sqnr_db > $(cat "$w/plain") and .weights_sqnr_db > .output_sqnr_db"
run 0 quantize diff/model.safetensors diff/equalized.parquet --calibration diff/columns.parquet \
    --activation-bits 4 --equalize
out_has '^inputs   worst (conv|fc)\.w: SQNR [0-9.]+ dB; 2 of 2 scaled$'
run 0 inspect diff/equalized.parquet --time
out_has '^scaled  by 32 factors from 0\.[0-9]+ to [0-9.]+ \(equalization\)$'
run 0 inspect diff/equalized.parquet --time --json
holds '.tensors[0].input_scales | .equalization and (.smoothing | not) and .count == 32 and
    .min > 0 and .max > 2 * .min'
run 0 quantize diff/model.safetensors diff/both.parquet --calibration diff/columns.parquet \
    --activation-bits 4 --equalize --smooth-input 0.25
run 0 inspect diff/both.parquet --time
out_has '^scaled  by 64 factors from .* \(equalization, smoothing\)$'
run 0 quantize diff/model.safetensors diff/input.parquet --calibration diff/columns.parquet \
    --activation-bits 4 --smooth-input 0.5
run 0 inspect diff/input.parquet --time
out_has ' \(smoothing\)$'
run 0 quantize diff/model.safetensors diff/zero.parquet --calibration diff/columns.parquet \
    --activation-bits 4 --smooth-input 0
cmp -s diff/zero.parquet diff/plain.parquet || fault '--smooth-input 0 does something'
for i in 1 2; do
    run 0 quantize diff/model.safetensors diff/part.parquet --calibration diff/columns.parquet \
        --activation-bits 4 --equalize --shard $i/2
done
run 0 merge diff/merged.parquet diff/part-00001-of-00002.parquet diff/part-00002-of-00002.parquet
cmp -s diff/merged.parquet diff/equalized.parquet || fault 'other bytes from shards'
run 0 verify diff/equalized.parquet
run 0 dequantize diff/equalized.parquet diff/back.safetensors
run 0 compare diff/equalized.parquet diff/back.safetensors --json
json .total.sqnr_db '"Infinity"'

begin 'calibration: profiles'
scaled='[.tensors[].time | if . then .scaled else null end]'
for profile in 'edge [false,false,null]' 'local [true,true,null]' 'cloud [true,true,null]'; do
    # shellcheck disable=SC2086
    set -- $profile
    run 0 quantize diff/model.safetensors diff/o.parquet --calibration diff/columns.parquet \
        --activation-bits 4 --profile "$1" --json
    json "$scaled" "$2"
    run 0 quantize diff/model.safetensors diff/o.parquet --calibration diff/columns.parquet \
        --activation-bits 4 --profile "$1" --no-equalize --json
    json "$scaled" '[false,false,null]'
done
for profile in 'edge [5,5,null]' 'local [10,6,null]' 'cloud [20,6,null]'; do
    # shellcheck disable=SC2086
    set -- $profile
    run 0 quantize diff/model.safetensors diff/o.parquet --calibration diff/calib.parquet \
        --profile "$1" --json
    json "$groups" "$2"
    run 0 quantize diff/model.safetensors diff/o.parquet --profile "$1" --json
    json "$groups" '[null,null,null]'
done
"$diffusion" calibration diff/conv.parquet conv.w 32 $steps grow
run 0 quantize diff/model.safetensors diff/o.parquet --calibration diff/conv.parquet \
    --profile cloud --json
json "$groups" '[20,null,null]'
run 0 quantize diff/model.safetensors diff/o.parquet --calibration diff/conv.parquet \
    --profile cloud --time-groups 7 --json
json "$groups" '[7,null,null]'

begin 'calibration: a single timestep, constant and zero inputs'
for fill in grow constant zero; do
    "$diffusion" calibration diff/$fill.parquet conv.w 32 500 $fill
    for profile in '' '--profile edge'; do
        # shellcheck disable=SC2086
        run 0 quantize diff/model.safetensors diff/o.parquet --json $profile \
            --calibration diff/$fill.parquet
        json "$groups" '[1,null,null]'
    done
    run 0 inspect diff/o.parquet --time --json
    json '.tensors[0].time | [.smoothness, .worst_score, .num_violations, (.groups | length)]' '[1,1,0,1]'
    holds '.tensors[0].time.groups[0].scale > 0'
    run 0 inspect diff/o.parquet --time
    out_has '^conv\.w: 1 time group, smoothness 1\.000, worst score 1\.000, 0 violations$'
done

begin 'calibration: what cannot be used'
# bad_calibration MESSAGE OPTION...: that is the error, and nothing is written.
bad_calibration() {
    message=$1
    shift
    run 2 quantize diff/model.safetensors never.parquet --calibration "$@"
    an_error "aq: $message"
    [ ! -e never.parquet ] || fault 'there is an output'
}
bad_calibration 'diff/none.parquet: cannot open: No such file or directory' diff/none.parquet
bad_calibration 'diff/model.safetensors: not a Parquet file: no PAR1 at its start' diff/model.safetensors
bad_calibration 'diff/equal.parquet: Parquet, but no calibration: no column timestep; one has layer_name, timestep, activations' \
    diff/equal.parquet
"$diffusion" calibration diff/bad.parquet conv.w 32 0,1 grow up.w 32 0,1 grow
bad_calibration 'diff/bad.parquet: the model has no such tensor (tensor "up.w", row 2 of row group 0); was the calibration made with another model?' \
    diff/bad.parquet
"$diffusion" calibration diff/bad.parquet conv.w 33 0,1 grow
bad_calibration 'diff/bad.parquet: 132 activations at timestep 0 are no whole vectors of 32 (tensor "conv.w", row 0 of row group 0)' \
    diff/bad.parquet
"$diffusion" calibration diff/bad.parquet conv.w 32 0,20,10 nan
bad_calibration 'diff/bad.parquet: activation 3 at timestep 10 is NaN or infinite (tensor "conv.w", row 2 of row group 0)' \
    diff/bad.parquet
bad_calibration 'diff/calib.parquet: 7 time groups for 6 calibrated timesteps (tensor "fc.w"); choose fewer' \
    diff/calib.parquet --time-groups 7
"$diffusion" calibration diff/bad.parquet
bad_calibration 'diff/bad.parquet: a calibration without rows' diff/bad.parquet
head -c 2000 diff/calib.parquet >diff/bad.parquet
run 2 quantize diff/model.safetensors never.parquet --calibration diff/bad.parquet
silent
err_has '^aq: diff/bad\.parquet: .'
run 2 quantize diff/model.safetensors never.parquet --calibration diff/bad.parquet --events
jq -ces 'map(del(.message)) | [.[].event, .[-1].file]' "$w/out" >"$w/value"
echo '["started","failed","diff/bad.parquet"]' | same "$w/value"
run 2 quantize missing.safetensors never.parquet --calibration diff/calib.parquet
an_error 'aq: missing.safetensors: cannot open: No such file or directory'
cp diff/calib.parquet diff/keep.parquet
for output in diff/calib.parquet ./diff/calib.parquet; do
    run 2 quantize diff/model.safetensors $output --calibration diff/calib.parquet
    an_error "aq: $output: cannot write: it is the calibration; choose another name"
done
cmp -s diff/calib.parquet diff/keep.parquet || fault 'the calibration was changed'

begin 'calibration: reports'
run 0 quantize diff/model.safetensors diff/o.parquet --calibration diff/calib.parquet --dry-run
golden dry-run-time
run 0 quantize diff/model.safetensors diff/o.parquet --calibration diff/calib.parquet --events
jq -ces ".[-1].report | $groups" "$w/out" >"$w/value"
echo '[10,6,null]' | same "$w/value"
run 0 quantize diff/model.safetensors diff/o.parquet --calibration diff/calib.parquet \
    --report diff/r.html
cp diff/r.html "$w/out"
out_has '<button type="button">time groups</button>'
[ "$(grep -Eo '^<tr><th class="l n" scope="row">[a-z.]*</th>(<td[^>]*>[^<]*</td>){5}' diff/r.html |
    sed 's/<[^>]*>/ /g' | awk '{ print $NF }' | tr '\n' ' ')" = '10 6 - ' ] ||
    fault 'other groups in the page'
if command -v xmllint >/dev/null; then expect 0 xmllint --noout --nonet diff/r.html; fi
run 0 quantize diff/model.safetensors diff/o.parquet --report diff/r.html
cp diff/r.html "$w/out"
out_lacks 'time groups'
for i in 1 2; do
    run 0 quantize diff/model.safetensors diff/part.parquet --calibration diff/calib.parquet --shard $i/2
done
run 0 merge diff/merged.parquet diff/part-00001-of-00002.parquet diff/part-00002-of-00002.parquet --json
json "$groups" '[10,6,null]'
run 0 quantize diff/model.safetensors diff/o.parquet --calibration diff/calib.parquet
cmp -s diff/o.parquet diff/merged.parquet || fault 'other bytes from shards'
run 0 verify diff/o.parquet

if [ -n "$with_yaml" ]; then
    begin 'calibration: in a configuration'
    yaml 'calibration: diff/calib.parquet' 'time-groups: 3' 'time-split: equal' \
        'activation-bits: 6' 'modality: text' 'method: weighted' 'optimize-groups: true' \
        'smooth-groups: sigmoid' 'smooth-window: 2' 'equalize: true' 'smooth-input: 0.5'
    run 0 quantize diff/model.safetensors diff/one.parquet --config c.yaml
    run 0 quantize diff/model.safetensors diff/two.parquet --calibration diff/calib.parquet \
        --time-groups 3 --time-split equal --activation-bits 6 --modality text \
        --optimize-groups --smooth-groups sigmoid --smooth-window 2 --equalize --smooth-input 0.5
    cmp -s diff/one.parquet diff/two.parquet || fault 'other bytes'
    run 0 config --config c.yaml --time-groups 2
    settings "$w/out" >"$w/settings"
    printf '%s\n' 'method: weighted' 'calibration: diff/calib.parquet' 'time-groups: 2' \
        'time-split: equal' 'activation-bits: 6' 'optimize-groups: true' \
        'smooth-groups: sigmoid' 'smooth-window: 2' 'equalize: true' 'smooth-input: 0.5' \
        'modality: text' | same "$w/settings"
    # What profiles and files say of a calibration waits for one.
    run 0 config --profile edge
    cp "$w/out" c.yaml
    run 0 quantize diff/model.safetensors diff/one.parquet --config c.yaml
    run 0 quantize diff/model.safetensors diff/two.parquet --profile edge
    cmp -s diff/one.parquet diff/two.parquet || fault 'other bytes'
    printf '%s\n' 'time-groups: 3' 'time-split: equal' 'activation-bits: 6' 'modality: text' \
        'optimize-groups: true' 'smooth-groups: sigmoid' 'smooth-window: 2' 'equalize: true' \
        'smooth-input: 0.5' >waits.yaml
    run 0 quantize diff/model.safetensors diff/one.parquet --config waits.yaml
    run 0 quantize diff/model.safetensors diff/two.parquet
    cmp -s diff/one.parquet diff/two.parquet || fault 'other bytes'
    run 0 quantize diff/model.safetensors diff/one.parquet --config c.yaml \
        --calibration diff/calib.parquet --json
    json "$groups" '[5,5,null]'
    # The groups of a profile are for as many timesteps as there are, from a file too.
    run 0 config --profile cloud
    cp "$w/out" c.yaml
    run 0 quantize diff/model.safetensors diff/one.parquet --config c.yaml \
        --calibration diff/calib.parquet --json --report diff/r.html
    json "$groups" '[20,6,null]'
    grep -q '<pre>profile: cloud  # c\.yaml, line 4$' diff/r.html || fault 'no profile in the page'
    grep -q '^group-size: 64  # profile cloud$' diff/r.html || fault 'no group size in the page'
    bad_yaml 'line 1: method weighted needs a calibration, which says how much each column counts: give --calibration FILE' \
        'method: weighted'
    bad_yaml 'line 1: time-groups takes a number from 1 to 256, not "0"' 'time-groups: 0'
    bad_yaml 'line 1: activation-bits takes a number from 4 to 8, not "2"' 'activation-bits: 2'
    bad_yaml 'line 1: time-split takes similar or equal, not "same"' 'time-split: same'
    bad_yaml 'line 1: modality takes text, code, image or audio, not "video"' 'modality: video'
fi

begin 'inspect --time: text'
time='{"enabled":true,"num_time_groups":4,"time_group_params":[
    {"time_range":[0,100],"scale":0.5,"zero_point":100,"group_size":1},
    {"time_range":[100,101],"scale":0.625,"zero_point":151,"group_size":1},
    {"time_range":[101,500],"scale":0.875,"zero_point":151,"group_size":1},
    {"time_range":[500,1000],"scale":3.5,"zero_point":0,"group_size":1,"bits":4}]}'
stats='{"mean":[-1,0.5],"std":[0.25,2],"min":[-3,-4.5],"max":[3,4],"timesteps":[20,600]}'
"$diffusion" model diff/w.parquet "$time" - "$stats"
run 0 inspect diff/w.parquet --time
golden inspect-time
quiet
expect 0 env NO_COLOR=1 "$host" terminal 60 "$aq" inspect diff/w.parquet --time
out_has '^w: 4 time groups'
run 0 inspect small.safetensors --time
out_is 'modality: not known' 'no tensor has time groups'
run 0 inspect q4.parquet --time
out_has '^no tensor has time groups$'
"$diffusion" model diff/off.parquet '{"enabled":false,"num_time_groups":0,"time_group_params":[]}' - -
run 0 inspect diff/off.parquet --time
out_is 'w: no time groups' 'scaled  no' '' 'modality: not known' 'no tensor has time groups'

begin 'inspect --time: JSON'
run 0 inspect diff/w.parquet --time --json
json '.tensors[0].time | [.num_groups, .num_violations]' '[4,2]'
# Jumps of 0.25, 0.4 and 3 of scales, and of 0.2, 0 and 151 / 255 of zero points.
json '.tensors[0].time.groups | [.[].severity]' '["none","medium","high",null]'
holds '.tensors[0].time.groups | [.[].scale_jump] == [0.25, 0.4, 3, null] and
    (.[0].score - 0.775 | fabs) < 1e-12 and .[1].score == 0.8 and .[2].score == 0'
holds '.tensors[0].time | (.smoothness - (1 - (0.25 + 0.4 + 3 + 0.2 + 151 / 255) / 6) | fabs) < 1e-12
    and .worst_score == 0'
json '.tensors[0].time.groups[3] | [.start, .end, .scale, .zero_point, .bits]' '[500,1000,3.5,0,4]'
json .tensors[0].input_scales null
json .tensors[0].activations.timesteps '[20,600]'
json '.tensors[0].activations | [.mean, .std, .min, .max]' '[[-1,0.5],[0.25,2],[-3,-4.5],[3,4]]'
run 0 inspect small.safetensors --time --json
json '[.tensors[] | [.time, .input_scales, .activations]] | unique' '[[null,null,null]]'
json .modality null
run 0 inspect diff/w.parquet --json
json '.tensors[0] | has("time")' false

begin 'inspect: damaged columns'
"$diffusion" model diff/bad.parquet '{"enabled":true,"num_time_groups":1' - -
for option in '' --time '--time --json'; do
    # shellcheck disable=SC2086
    run 2 inspect diff/bad.parquet $option
    silent
    err_has '^aq: diff/bad\.parquet: .*tensor "w".*column time_aware_quant_json|^aq: diff/bad\.parquet: .*column time_aware_quant_json.*tensor "w"'
done
"$diffusion" model diff/bad.parquet - '{"enabled":true}' -
run 2 inspect diff/bad.parquet --time
err_has 'column spatial_quant_json.*tensor "w"'
"$diffusion" model diff/bad.parquet - - '{"mean":[1],"std":[1],"min":[1],"max":[]}'
run 2 inspect diff/bad.parquet --time
err_has 'column activation_stats_json.*tensor "w"'
run 1 verify diff/bad.parquet
silent
err_has 'column activation_stats_json.*tensor "w"'
run 2 quantize diff/bad.parquet never.parquet
silent
[ ! -e never.parquet ] || fault 'there is an output'

# --- The report as a page ---------------------------------------------------------------------

begin 'report: a page'
mkdir page
"$gen" a.w F32 64x256 random b.w F32 32x512 random b.b F32 512 random ids I64 3 ramp \
    >page/model.safetensors
run 0 quantize page/model.safetensors page/o.parquet --tensor 'b\.w=2' --report page/r.html
quiet
files page model.safetensors o.parquet r.html
out_has '^quantized 2 of 4 tensors'
cp page/o.parquet with.parquet
run 0 quantize page/model.safetensors page/o.parquet --tensor 'b\.w=2'
cmp -s with.parquet page/o.parquet || fault 'other bytes with a report'
cp page/r.html "$w/out"
out_has '^<title>page/o\.parquet: quantization report</title>$'
[ "$(grep -c '^<tr><th class="l n" scope="row">' page/r.html)" -eq 4 ] || fault 'not 4 rows'
[ "$(grep -c '<div class="card"><h3>[ab]\.w</h3>' page/r.html)" -eq 2 ] || fault 'not 2 figures'
[ "$(grep -c '<figure>' page/r.html)" -eq 6 ] || fault 'not 6 histograms'
out_lacks 'https?:|//[a-z]|@import|<iframe|<object|url\('
# What the figures say is what the JSON says.
run 0 quantize page/model.safetensors page/o.parquet --tensor 'b\.w=2' --json --report page/r.html
sqnr=$(jq -r '.tensors[] | select(.name == "b.w").sqnr_db * 10 | round / 10' "$w/out")
cp page/r.html "$w/out"
out_has "2 bits &#183; SQNR $sqnr dB"
out_has "^  &#39;b\\\\\.w&#39;: 2  # command line$"

begin 'report: histograms hold every weight'
"$gen" w F32 8x64 ramp >ramp.safetensors
run 0 quantize ramp.safetensors o.parquet --report r.html
cp r.html "$w/out"
out_has '512 of 512 weights are counted'
out_has '<figcaption>weights, from -6 to 6</figcaption>'
"$gen" w F32 8x64 zero >zero.safetensors
run 0 quantize zero.safetensors o.parquet --report r.html
cp r.html "$w/out"
out_has '<td>1\.00000</td><td>inf</td><td>0</td>'
"$gen" ids I64 3 ramp >ids.safetensors
run 0 quantize ids.safetensors o.parquet --report r.html
"$gen" >nothing.safetensors
run 0 quantize nothing.safetensors o.parquet --report r.html
"$gen" w F32 4096x2048 random >large.safetensors
run 0 quantize large.safetensors o.parquet --report r.html
cp r.html "$w/out"
out_has '2,797,568 of 8,388,608 weights are counted'
out_has 'dB &#183; 33 % counted'
rm -f large.safetensors

begin 'report: names are text'
"$gen" '<script>alert(1)</script>' F32 8x64 random '\"><img src=x onerror=alert(1)>' F32 8x64 random \
    "a&amp;'b" F32 8x64 random ']]>\u202e\u0001' F32 8x64 random '--></p>' F32 64 random >evil.safetensors
run 0 quantize evil.safetensors '<b>&"o".parquet' --report evil.html --keep "a&amp;'"
cp evil.html "$w/out"
out_has '<th class="l n" scope="row">&#60;script&#62;alert\(1\)&#60;/script&#62;</th>'
out_has '<th class="l n" scope="row">&#34;&#62;&#60;img src=x onerror=alert\(1\)&#62;</th>'
out_has '<th class="l n" scope="row">a&#38;amp;&#39;b</th>'
out_has '<th class="l n" scope="row">\]\]&#62;\\xe2\\x80\\xae\\x01</th>'
out_lacks '<script>alert|<img|<b>&|<b>.*o.*parquet'

begin 'report: settings that are not UTF-8'
run 0 quantize model.safetensors o.parquet --keep "$(printf '\377|ids')" --bits 8 --report raw.html
quiet
cp raw.html "$w/out"
out_has '<pre>bits: 8  # command line$'
out_has '^  - &#34;\\xff\|ids&#34;  # command line$'
out_has '^# all others: defaults</pre>'
rm -f raw.html

begin 'report: many tensors'
set --
i=0
while [ $i -lt 500 ]; do
    set -- "$@" "layers.$i.w" F32 8x32 random
    i=$((i + 1))
done
"$gen" "$@" >many500.safetensors
run 0 quantize many500.safetensors o.parquet --report many.html
cp many.html "$w/out"
[ "$(grep -c '^<tr><th class="l n" scope="row">' many.html)" -eq 500 ] || fault 'not 500 rows'
[ "$(grep -c '<div class="card"><h3>' many.html)" -eq 62 ] || fault 'not 62 cards'
out_has '440 tensors with less error are left out: SQNR from [0-9.]+ dB, first <code>layers'
[ "$(wc -c <many.html)" -lt 500000 ] || fault "$(wc -c <many.html) bytes"

begin 'report: form'
if command -v xmllint >/dev/null; then
    for page in page/r.html r.html evil.html many.html; do
        expect 0 xmllint --noout --nonet $page
        quiet
    done
else
    skip 'no xmllint'
fi

if [ -z "${NO_BROWSER:-}" ]; then
begin 'report: in a browser'
chromium=$(command -v chromium || command -v chromium-browser || command -v google-chrome)
if [ -n "$chromium" ] && command -v node >/dev/null; then
    for page in page/r.html:4:2:page/o.parquet r.html:1:1:o.parquet \
        'evil.html:5:3:<b>&"o".parquet' many.html:500:60:o.parquet; do
        expect 0 node "$here/browser.mjs" "$chromium" "${page%%:*}"
        quiet
        rest=${page#*:}
        json '[.rows, .figures]' "[${rest%%:*},$(echo "$rest" | cut -d: -f2)]"
        json '[.problems, .requests]' '[[],[]]'
        json .scripts 1
        json .title "$(jq -cn --arg name "${page##*:}" '$name + ": quantization report"')"
        holds '.names == (.names | sort) and .sorted.name == .names'
        holds '.elements - ["b","bdi","button","circle","code","dd","div","dl","dt",
            "figcaption","figure","g","h1","h2","h3","i","input","p","path","pre","s","span",
            "svg","table","tbody","td","text","th","thead","title","tr","u"] == []'
        holds '.overflow == false and .light != .dark'
    done
    expect 0 node "$here/browser.mjs" "$chromium" page/r.html
    json .sorted.dtype '["ids","a.w","b.b","b.w"]'
    json .sorted.SQNR '["a.w","b.w","b.b","ids"]'
    json .sorted.bytes '["a.w","b.w","b.b","ids"]'
    json .found '["ids"]'
    expect 0 node "$here/browser.mjs" "$chromium" page/r.html shot.png 380 800
    json .overflow false
else
    skip 'no Chromium, or no node'
fi
fi

begin 'report: what it must not replace'
cp page/model.safetensors page/keep.safetensors
echo 'my notes' >page/notes.html
ln -s o.parquet page/link.html
for target in page/o.parquet page/link.html ./page/o.parquet; do
    run 2 quantize page/model.safetensors page/o.parquet --report "$target"
    an_error "aq: $target: cannot write: it is the output of the job; choose another name"
done
for target in page/model.safetensors page/notes.html; do
    run 2 quantize page/model.safetensors page/new.parquet --report "$target"
    an_error "aq: $target: cannot write: there is a file that is no HTML page; choose another name"
done
run 2 quantize page/model.safetensors page/new.parquet --report page
an_error 'aq: page: cannot write: not a regular file'
run 2 quantize page/model.safetensors page/new.parquet --report nowhere/r.html
an_error 'aq: nowhere/r.html: cannot write: No such file or directory'
[ ! -e page/new.parquet ] || fault 'there is an output'
run 2 quantize page/model.safetensors page/new.html --report page/../page/new.html
silent
err_has 'page/\.\./page/new\.html: cannot write: it is the output of the job; choose another name$'
[ ! -e page/new.html ] || fault 'there is an output'
run 2 quantize page/model.safetensors page/new// --report page/new
an_error 'aq: page/new: cannot write: it is the output of the job; choose another name'
[ ! -e page/new ] || fault 'there is an output'
cmp -s page/model.safetensors page/keep.safetensors || fault 'the input was changed'
[ "$(cat page/notes.html)" = 'my notes' ] || fault 'the notes were changed'
run 2 quantize page/model.safetensors page/new.parquet --report r.html --dry-run
usage_error 'aq: quantize: --report needs what --dry-run does not make' quantize
run 0 quantize page/model.safetensors page/o.parquet --report page/r.html
files page keep.safetensors link.html model.safetensors notes.html o.parquet r.html

begin 'report: a job that fails leaves none'
run 2 quantize nan.safetensors o.parquet --fail-fast --report page/nan.html
[ ! -e page/nan.html ] || fault 'there is a page'
files page keep.safetensors link.html model.safetensors notes.html o.parquet r.html

# --- bench ----------------------------------------------------------------------------------

begin 'bench: JSON'
run 0 bench --mib 1 --threads 2 --json
quiet
json '[.mib, .cols]' '[1,4096]'
json '[.floors[] | [.name, .threads]]' '[["memcpy",1],["memcpy",2],["read",1],["read",2],["store",1],["store",2],["non-temporal store",1],["non-temporal store",2]]'
holds 'all(.floors[]; .gb_per_second > 0 or (.name == "non-temporal store" and .gb_per_second == null))'
holds 'all(.operations[]; .gb_per_second > 0 and .ratio > 0 and .runs >= 3)'
json '[.operations[] | [.codes, .bits, .group_size]] | unique' \
    '[["codebook4",4,16],["int2",2,128],["int4",4,128],["int8",8,128]]'
json '[.operations[] | select(.isa == "ref" and .threads == 2)] |
    [group_by([.operation, .variant])[] | [.[0].operation, .[0].variant, .[0].floor, ([.[].codes] | join(" "))] | join(", ")]' \
    '["dequantize, float32, store, int2 int4 int8 codebook4","matmul 8, float32, read, int4","matmul 8, int8, read, int4 int8","matvec, float32, read, int2 int4 int8","matvec, int8, read, int2 int4 int8 codebook4","quantize, minmax, read, int2 int4 int8","quantize, refine, read, int2 int4 int8"]'
# Products have GFLOP/s: 2 for each weight and vector.
holds 'all(.operations[]; (.gflop_per_second != null) == (.operation | startswith("mat")))'
holds 'all(.operations[] | select(.gflop_per_second != null);
    (.bits / 8 + (if .codes == "codebook4" then 1 / 16 + 4 / 4096 else 8 / 128 end)) * .gflop_per_second /
    ((if .operation == "matvec" then 2 else 16 end) * .gb_per_second) | . > 0.999 and . < 1.001)'
# Bars: on one thread, on the best instruction set and for quantization on AVX2.
json '[.operations[] | select(.bar != null) | .threads] | unique' '[1]'
holds '[.operations[] | select(.bar != null)] | group_by(.isa) | map(length) | sort | . == [11] or . == [3,11]'
# Nothing is missing for another instruction set, and nothing is there twice.
json '[.operations | group_by(.isa)[] | map(del(.isa, .gb_per_second, .gflop_per_second, .ratio, .bar, .runs)) | sort] | unique | length' 1
json '[.operations | group_by(.isa, .operation, .variant, .codes, .threads)[] | length] | unique' '[1]'

begin 'bench: one instruction set, one thread'
run 0 bench --mib 1 --isa ref --threads 1 --json
json '[.operations[] | [.isa, .threads]] | unique' '[["ref",1]]'
json '[.floors[].threads] | unique' '[1]'
case $(uname -m) in x86_64) other=neon ;; *) other=avx2 ;; esac
run 2 bench --isa $other
an_error "aq: bench: $other is not supported here"

begin 'bench: text'
run 0 bench --mib 1 --isa ref --threads 2
quiet
out_has '1 MiB of float32, groups of 128 \(codebook: 16\), medians of [3579] runs'
out_has '^GB/s  *1 thread  2 threads$'
out_has '^read  *[0-9.]+  *[0-9.]+$'
out_has '^isa  *operation  *codes  *floor  *1 thread  of floor  *bar  2 threads  of floor  times$'
out_has '^ref  quantize    minmax  *int4  *read  *[0-9.]+  *[0-9]+ %  *[0-9.]+  *[0-9]+ %  *[0-9.]+$'
run 0 bench --mib 1 --isa ref --threads 1
out_has '^isa  *operation  *codes  *floor  *1 thread  of floor  *bar$'

begin 'bench: a chart'
mkdir chart
run 0 bench --mib 1 --svg chart/o.svg --json
files chart o.svg
# The background, a bar for each operation, a colour for each instruction set.
bars=$(jq '1 + (.operations | length) + ([.operations[].isa] | unique | length)' "$w/out")
[ "$(grep -c '^<rect' chart/o.svg)" = "$bars" ] || fault "not $bars bars"
[ "$(sed -n '1s/ .*//p; $p' chart/o.svg | tr '\n' ' ')" = '<svg </svg> ' ] || fault 'no whole SVG'
if command -v xmllint >/dev/null; then expect 0 xmllint --noout chart/o.svg; fi
run 0 bench --mib 1 --isa ref --svg chart/o.svg
files chart o.svg

begin 'bench: wrong values'
for mib in 0 -1 65537 x ''; do
    run 2 bench --mib "$mib"
    usage_error "aq: bench: --mib takes a number from 1 to 65536, not \"$mib\"" bench
done
run 2 bench --isa sse
usage_error 'aq: bench: --isa takes ref, avx2, avx512 or neon, not "sse"' bench
run 2 bench --isa auto
usage_error 'aq: bench: --isa takes ref, avx2, avx512 or neon, not "auto"' bench
run 2 bench --threads 0
usage_error 'aq: bench: --threads takes a number from 1 to 1024, not "0"' bench
run 2 bench model.safetensors
usage_error 'aq: bench: unexpected operand "model.safetensors"' bench
run 2 bench --svg nowhere/o.svg
an_error 'aq: nowhere/o.svg: cannot write: No such file or directory'
run 2 bench --svg chart
an_error 'aq: chart: cannot write: not a regular file'
files chart o.svg

# --- The output file ------------------------------------------------------------------------

begin 'output is input'
mkdir same
cp model.safetensors same/a.safetensors
ln -s a.safetensors same/link.safetensors
ln same/a.safetensors same/hard.parquet
for output in a.safetensors link.safetensors hard.parquet ../same/a.safetensors; do
    run 2 quantize same/a.safetensors "same/$output"
    silent
    err_has "^aq: same/$output: ."
    run 2 convert same/a.safetensors "same/$output"
    silent
done
cmp -s model.safetensors same/a.safetensors || fault 'the input was changed'
files same a.safetensors hard.parquet link.safetensors

begin 'a folder that is not there'
run 2 quantize model.safetensors nowhere/o.parquet
silent
err_has '^aq: nowhere/o\.parquet: .*No such file or directory'

begin 'a folder that must not be written'
mkdir locked
chmod 555 locked
if touch locked/try 2>/dev/null; then
    rm -f locked/try
    as_nobody='setpriv --reuid=65534 --regid=65534 --clear-groups'
    chmod 755 "$w"
else
    as_nobody='env'
fi
if $as_nobody "$aq" --version >/dev/null 2>&1; then
    # shellcheck disable=SC2086
    expect 2 $as_nobody "$aq" quantize model.safetensors locked/o.parquet
    silent
    err_has '^aq: locked/o\.parquet: .*Permission denied'
    files locked
else
    skip 'root may write everywhere, and aq cannot run as another user'
fi

begin 'a full disk'
mkdir small_disk
if mount -t tmpfs -o size=64k none small_disk 2>/dev/null; then
    cp small.safetensors small_disk/o.parquet
    run 2 quantize model.safetensors small_disk/o.parquet --bits 8
    silent
    err_has '^aq: small_disk/o\.parquet: .*No space left on device'
    cmp -s small.safetensors small_disk/o.parquet || fault 'the old file was changed'
    files small_disk o.parquet
    umount small_disk
else
    skip 'no right to mount a small file system'
fi

begin 'stdout that takes nothing'
if [ -c /dev/full ]; then
    for arguments in 'inspect small.safetensors' 'inspect small.safetensors --json' --help \
        --version 'quantize --help' 'verify small.safetensors' 'cat q4.parquet'; do
        # shellcheck disable=SC2086
        "$aq" $arguments >/dev/full 2>"$w/err"
        [ $? -eq 2 ] || fault "$arguments: exit $?"
        err_is 'aq: standard output: No space left on device'
    done
    "$aq" inspect small.safetensors >&- 2>"$w/err"
    [ $? -eq 2 ] || fault "closed: exit $?"
    err_is 'aq: standard output: Bad file descriptor'
else
    skip 'no /dev/full'
fi

begin 'closed streams do not end up in the output'
"$aq" quantize model.safetensors closed.parquet <&- >&- 2>&-
run 0 verify closed.parquet

begin 'a reader that leaves'
"$aq" inspect small.safetensors --json 2>"$w/err" | :
quiet

begin 'signals leave nothing behind'
mkdir stop
big big.safetensors
for signal in 2:130 15:143 1:129; do
    expect 0 "$host" stop "${signal%:*}" stop "$aq" quantize big.safetensors stop/o.parquet
    out_is "exit ${signal#*:}"
    err_is 'aq: stop/o.parquet: interrupted; nothing was written'
    files stop
done
expect 0 "$host" stop 2 stop "$aq" convert big.safetensors stop/o.parquet --json
out_is 'exit 130'
files stop

begin 'a signal while the page is made leaves the output'
for signal in 2 15; do
    expect 0 "$host" grown $signal stop/o.parquet 1 \
        "$aq" quantize big.safetensors stop/o.parquet --report stop/r.html
    out_is "signal $signal"
    quiet
    files stop o.parquet
    rm -f stop/o.parquet
done

begin 'kill -9 leaves the old file as it was'
mkdir kill
cp q4.parquet kill/o.parquet
expect 0 "$host" stop 9 kill "$aq" quantize big.safetensors kill/o.parquet
out_is 'signal 9'
cmp -s q4.parquet kill/o.parquet || fault 'the old file was changed'
rm -rf kill
mkdir kill
expect 0 "$host" stop 9 kill "$aq" quantize big.safetensors kill/o.parquet
[ ! -e kill/o.parquet ] || fault 'there is an output'
rm -rf kill

# --- Parts of a job ---------------------------------------------------------------------------

# shards OUT N OPTION...: all parts of parts.safetensors.
shards() {
    output=$1 count=$2
    shift 2
    part=1
    while [ $part -le "$count" ]; do
        run 0 quantize parts.safetensors "$output" --shard $part/"$count" "$@"
        part=$((part + 1))
    done
}

begin 'merge: shards give the bytes of a single run'
"$gen" a F32 96x256 random b F32 256 random c F16 64x64 random d F32 128x512 random e I64 9 ramp \
    f F32 512x64 random g F32 0x4 ramp h F32 "" ramp --metadata '{"note":"x"}' >parts.safetensors
mkdir parts
for options in '' '--bits 2 --scales u8 --keep ^c' '--chunk-size 4000'; do
    # shellcheck disable=SC2086
    run 0 quantize parts.safetensors single.parquet $options
    chunk=
    case $options in --chunk*) chunk=$options ;; esac
    for count in 1 2 3 7 12; do
        # shellcheck disable=SC2086
        shards parts/m.parquet $count $options
        # shellcheck disable=SC2012,SC2046,SC2086  # the last first
        run 0 merge merged.parquet $(ls -r parts/*) $chunk --threads 2
        quiet
        cmp -s single.parquet merged.parquet || fault "$options, $count shards: other bytes"
        rm -f parts/*
    done
done

begin 'quantize: --shard names its output, and says so'
run 0 quantize parts.safetensors parts/m.parquet --shard 2/4 --report parts/r.html
out_has '^shard    2 of 4$'
out_has '^file     parts/m-00002-of-00004\.parquet, '
files parts m-00002-of-00004.parquet r-00002-of-00004.html
run 0 quantize parts.safetensors parts/v1.2/m --shard 1/10 --dry-run --json
json '[.output, .shard]' '["parts/v1.2/m-00001-of-00010",{"index":1,"count":10}]'
run 0 quantize parts.safetensors .hidden --shard 1/1 --dry-run --json
json .output '".hidden-00001-of-00001"'
run 0 quantize parts.safetensors m.parquet --dry-run --json
json .shard null
rm -f parts/*
shards parts/m.parquet 3 --json
json '[.operation, .num_resumed]' '["quantize",0]'
run 0 merge merged.parquet parts/m-0000?-of-00003.parquet
out_has '^merged 3 shards, 8 tensors$'
out_has '^file     merged\.parquet, '
run 0 merge merged.parquet parts/m-0000?-of-00003.parquet --json --no-streaming --io read
json '[.operation, .inputs, .output]' \
    '["merge",["parts/m-00001-of-00003.parquet","parts/m-00002-of-00003.parquet","parts/m-00003-of-00003.parquet"],"merged.parquet"]'
run 0 merge merged.parquet parts/m-0000?-of-00003.parquet --events --max-memory 1M
jq -ces '[.[0].operation, (.[0].inputs | length), .[-1].event, .[-1].report.operation]' \
    "$w/out" >"$w/value"
echo '["merge",3,"finished","merge"]' | same "$w/value"

begin 'merge: wrong sets'
rm -f merged.parquet
run 2 merge merged.parquet parts/m-00002-of-00003.parquet
an_error 'aq: merged.parquet: shards 1 and 3 of 3 are missing'
run 2 merge merged.parquet parts/m-00002-of-00003.parquet parts/m-00001-of-00003.parquet
an_error 'aq: merged.parquet: shard 3 of 3 is missing'
cp parts/m-00002-of-00003.parquet again.parquet
run 2 merge merged.parquet parts/m-* again.parquet
an_error 'aq: again.parquet: is shard 2 of 3, as is parts/m-00002-of-00003.parquet'
run 0 quantize parts.safetensors parts/n.parquet --shard 3/4
run 2 merge merged.parquet parts/m-* parts/n-*
an_error 'aq: parts/n-00003-of-00004.parquet: is shard 3 of 4, but parts/m-00001-of-00003.parquet is one of 3'
run 0 quantize parts.safetensors parts/n.parquet --shard 3/3 --bits 8
run 2 merge merged.parquet parts/m-0000[12]* parts/n-00003-of-00003.parquet
silent
err_has '^aq: parts/n-00003-of-00003\.parquet: shard of another model, or made with other options$'
run 0 quantize model.safetensors parts/n.parquet --shard 3/3
run 2 merge merged.parquet parts/m-0000[12]* parts/n-00003-of-00003.parquet
err_has '^aq: parts/n-00003-of-00003\.parquet: shard of another model, or made with other options$'
run 2 merge merged.parquet q4.parquet
an_error 'aq: q4.parquet: is no shard of a job: aq quantize --shard makes such'
run 2 merge merged.parquet model.safetensors
silent
err_has '^aq: model\.safetensors: .'
run 2 merge merged.parquet parts/nothing
an_error 'aq: parts/nothing: cannot open: No such file or directory'
run 2 merge merged.parquet
usage_error 'aq: merge: missing operand' merge
[ ! -e merged.parquet ] || fault 'there is an output'
run 2 merge parts/m-00001-of-00003.parquet parts/m-*
silent
err_has '^aq: parts/m-00001-of-00003\.parquet: .'
head -c 500 parts/m-00002-of-00003.parquet >cut.parquet
run 2 merge merged.parquet parts/m-00001* cut.parquet parts/m-00003*
silent
err_has '^aq: cut\.parquet: .'
rm -f again.parquet cut.parquet

begin 'quantize: wrong values of --shard'
for part in 0/4 5/4 x 4 1/ /4 1/0 1/100000 -1/4 '1/4 ' ' 1/4' 1/4/4 Auto ''; do
    run 2 quantize a b --shard "$part"
    usage_error "aq: quantize: --shard takes I/N with I from 1 to N, at most 99999, or auto, not \"$part\"" quantize
done
for target in '--target-bpw 4' '--target-size 1M'; do
    # shellcheck disable=SC2086
    run 2 quantize a b --shard 1/4 $target
    usage_error 'aq: quantize: --shard and --target-bpw, --target-size exclude each other: a part does not know the others' quantize
done
for output in folder/ o.safetensors; do
    run 2 quantize a $output --shard 1/4
    usage_error 'aq: quantize: --shard needs a Parquet file as output' quantize
done

# auto EXIT VARIABLE=VALUE...: the part that --shard auto takes.
auto() {
    wanted=$1
    shift
    expect "$wanted" env "$@" "$aq" quantize parts.safetensors o.parquet --shard auto \
        --dry-run --json
}

begin 'quantize: --shard auto'
slurm='SLURM_ARRAY_TASK_COUNT=4 SLURM_ARRAY_TASK_STEP=1'
for first in 0 1 10; do
    # shellcheck disable=SC2086
    auto 0 $slurm SLURM_ARRAY_TASK_MIN=$first SLURM_ARRAY_TASK_MAX=$((first + 3)) \
        SLURM_ARRAY_TASK_ID=$((first + 2))
    json '[.shard.index, .shard.count, .output]' '[3,4,"o-00003-of-00004.parquet"]'
done
auto 0 SLURM_ARRAY_TASK_ID=6 SLURM_ARRAY_TASK_MIN=2 SLURM_ARRAY_TASK_MAX=6 \
    SLURM_ARRAY_TASK_COUNT=3 SLURM_ARRAY_TASK_STEP=2
json '[.shard.index, .shard.count]' '[3,3]'
auto 0 OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=2
json '[.shard.index, .shard.count]' '[1,2]'
# 1, 2 and 7 are no parts of 3; neither is a task beyond the array.
for array in '1 7' '7 7' '4 3' '0 3'; do
    auto 2 SLURM_ARRAY_TASK_ID="${array% *}" SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_COUNT=3 \
        SLURM_ARRAY_TASK_STEP=1 SLURM_ARRAY_TASK_MAX="${array#* }"
    an_error "aq: SLURM_ARRAY_TASK_ID: is ${array% *} of 3 tasks from 1 to ${array#* }, which are not evenly spaced; say --shard I/N"
done
auto 2 SLURM_ARRAY_TASK_ID=1
err_has '^aq: SLURM_ARRAY_TASK_COUNT: is missing or 0'
auto 2 SLURM_ARRAY_TASK_ID=one SLURM_ARRAY_TASK_COUNT=4
an_error 'aq: SLURM_ARRAY_TASK_ID: is "one", no number; say --shard I/N'
auto 2 OMPI_COMM_WORLD_RANK=2 OMPI_COMM_WORLD_SIZE=2
an_error 'aq: OMPI_COMM_WORLD_RANK: is 2 of OMPI_COMM_WORLD_SIZE=2; say --shard I/N'
auto 2 OMPI_COMM_WORLD_RANK=1
an_error 'aq: OMPI_COMM_WORLD_RANK: is 1 of OMPI_COMM_WORLD_SIZE=0; say --shard I/N'
auto 2 OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=2 SLURM_ARRAY_TASK_ID=1
usage_error 'aq: quantize: --shard auto finds both SLURM_ARRAY_TASK_ID and OMPI_COMM_WORLD_RANK; say I/N' quantize
auto 2 NOTHING=1
err_has '^aq: quantize: --shard auto needs SLURM_ARRAY_TASK_ID and .* OMPI_COMM_WORLD_SIZE'
# The variables alone do nothing.
expect 0 env OMPI_COMM_WORLD_RANK=1 OMPI_COMM_WORLD_SIZE=2 "$aq" quantize parts.safetensors \
    o.parquet --dry-run --json
json .shard null

begin 'quantize under mpirun'
if command -v mpirun >/dev/null 2>&1; then
    rm -f parts/*
    run 0 quantize parts.safetensors single.parquet
    expect 0 timeout 120 mpirun --oversubscribe --allow-run-as-root -n 4 \
        "$aq" quantize --shard auto parts.safetensors parts/m.parquet
    files parts m-00001-of-00004.parquet m-00002-of-00004.parquet m-00003-of-00004.parquet \
        m-00004-of-00004.parquet
    [ "$(grep -c '^shard    [1-4] of 4$' "$w/out")" -eq 4 ] || fault "$(cat "$w/out")"
    run 0 merge merged.parquet parts/m-*
    cmp -s single.parquet merged.parquet || fault 'other bytes'
else
    skip 'no mpirun (Debian: openmpi-bin)'
fi
rm -rf parts merged.parquet

# --- Interrupted jobs -------------------------------------------------------------------------

begin '--resume: interrupted, it goes on'
mkdir on
run 0 quantize big.safetensors single.parquet
# Of 96 tensors that take 144 KiB each, some are done and others not.
for signal in 2:130 15:143 1:129; do
    expect 0 "$host" grown "${signal%:*}" on/.o.parquet.aq-part 2000000 \
        "$aq" quantize big.safetensors on/o.parquet --resume --threads 1
    out_is "exit ${signal#*:}"
    err_has '^aq: on/o\.parquet: interrupted; [0-9]+ of 96 tensors are done; run the same command again to go on$'
    ndone=$(sed 's/.*interrupted; \([0-9]*\) of.*/\1/' "$w/err")
    { [ "$ndone" -gt 0 ] && [ "$ndone" -lt 96 ]; } || fault "$ndone tensors are done"
    files on .o.parquet.aq-journal .o.parquet.aq-part
    run 0 quantize big.safetensors on/o.parquet --resume --report on.html
    out_has "^resumed  $ndone of 96 tensors were done$"
    out_has '^time     [0-9.]+ s$'
    grep -q "<b>[0-9.]* s</b><span>$ndone of 96 tensors were done</span>" on.html ||
        fault 'a rate in the page'
    cmp -s single.parquet on/o.parquet || fault 'other bytes'
    files on o.parquet
    rm -f on/o.parquet
done

begin '--resume: of every job, into every file'
run 0 quantize big.safetensors q.parquet
for job in 'convert big.safetensors o.parquet' 'convert big.safetensors o.safetensors' \
    'dequantize q.parquet o.safetensors' 'dequantize q.parquet o.parquet'; do
    # shellcheck disable=SC2086
    set -- $job
    run 0 "$1" "$2" "single-$3"
    expect 0 "$host" grown 2 "on/.$3.aq-part" 2000000 "$aq" "$1" "$2" "on/$3" --resume --threads 1
    out_is 'exit 130'
    expect 0 "$host" grown 15 "on/.$3.aq-part" 20000000 \
        "$aq" "$1" "$2" "on/$3" --resume --threads 2
    run 0 "$1" "$2" "on/$3" --resume --json
    cmp -s "single-$3" "on/$3" || fault "$job: other bytes"
    files on "$3"
    rm -f on/* "single-$3"
done

begin '--resume: what was killed goes on from the last checkpoint'
# 1 GiB of zeros that take no room: there is a checkpoint after each half of it.
set -- t10 F32 4096x4096 hole
for i in 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25; do
    set -- "$@" t$i F32 4096x4096 hole
done
"$gen" "$@" >hole.safetensors
run 0 quantize hole.safetensors hole.parquet
expect 0 "$host" begun 9 on/.o.parquet.aq-journal \
    "$aq" quantize hole.safetensors on/o.parquet --resume
out_is 'signal 9'
files on .o.parquet.aq-journal .o.parquet.aq-part
run 0 quantize hole.safetensors on/o.parquet --resume --json
holds '.num_resumed >= 7 and .num_resumed < 16 and .num_tensors == 16'
json .bytes_per_second null
cmp -s hole.parquet on/o.parquet || fault 'other bytes'
files on o.parquet
rm -f on/*
expect 0 "$host" grown 9 on/.o.parquet.aq-part 1 \
    "$aq" quantize hole.safetensors on/o.parquet --resume
out_is 'signal 9'
run 0 quantize hole.safetensors on/o.parquet --resume
out_lacks '^resumed'
cmp -s hole.parquet on/o.parquet || fault 'other bytes'
rm -f on/*

begin 'two jobs on one output'
"$aq" quantize hole.safetensors on/o.parquet --resume >"$w/first" 2>&1 &
first=$!
while [ ! -e on/.o.parquet.aq-part ] && kill -0 $first 2>/dev/null; do :; done
run 2 quantize hole.safetensors on/o.parquet --resume
an_error 'aq: on/o.parquet: another job is writing this output: Device or resource busy'
wait $first || fault "$(cat "$w/first")"
cmp -s hole.parquet on/o.parquet || fault 'other bytes'
files on o.parquet
rm -f on/*
# Without --resume each has a file of its own, and the last one to end stays.
"$aq" quantize big.safetensors on/o.parquet >"$w/first" 2>&1 &
first=$!
run 0 quantize big.safetensors on/o.parquet
wait $first || fault "$(cat "$w/first")"
cmp -s single.parquet on/o.parquet || fault 'other bytes'
files on o.parquet
rm -f on/*

begin '--resume: another job begins anew'
interrupt() {
    expect 0 "$host" grown 2 on/.o.parquet.aq-part 2000000 \
        "$aq" quantize big.safetensors on/o.parquet --resume --threads 1
    out_is 'exit 130'
}
interrupt
run 0 quantize big.safetensors q8.parquet --bits 8
run 0 quantize big.safetensors on/o.parquet --resume --bits 8
out_lacks '^resumed'
cmp -s q8.parquet on/o.parquet || fault 'other bytes'
rm -f on/* q8.parquet
interrupt
touch -d '2001-01-01' big.safetensors
run 0 quantize big.safetensors on/o.parquet --resume
out_lacks '^resumed'
cmp -s single.parquet on/o.parquet || fault 'other bytes'
rm -f on/*
run 2 quantize a folder/ --resume
usage_error 'aq: quantize: --resume needs one file as output, not the folder folder/' quantize

begin '--resume: with a target, while the bits are chosen'
expect 0 "$host" grown 2 on/.o.parquet.aq-journal 0 \
    "$aq" quantize big.safetensors on/o.parquet --resume --target-bpw 5 --threads 1
out_is 'exit 130'
err_is 'aq: on/o.parquet: interrupted; the bits of the tensors were not chosen yet; run the same command again'
run 0 quantize big.safetensors single.parquet --target-bpw 5
run 0 quantize big.safetensors on/o.parquet --resume --target-bpw 5
cmp -s single.parquet on/o.parquet || fault 'other bytes'
rm -f on/*
expect 0 "$host" grown 2 on/.o.parquet.aq-part 2000000 \
    "$aq" quantize big.safetensors on/o.parquet --resume --target-bpw 5 --threads 1
err_has 'interrupted; [0-9]+ of 96 tensors are done'
run 0 quantize big.safetensors on/o.parquet --resume --target-bpw 5
out_has '^resumed  [0-9]+ of 96'
cmp -s single.parquet on/o.parquet || fault 'other bytes'
rm -f on/*

begin 'no room for the whole output'
# limited EXIT KIB ARGUMENT...: aq, with a limit on the size of files
limited() {
    wanted=$1 blocks=$(($2 * 2))
    shift 2
    expect "$wanted" sh -c 'ulimit -f "$0" && exec "$@"' $blocks "$aq" "$@"
}
run 0 quantize big.safetensors single.parquet
limited 2 4000 quantize big.safetensors on/o.parquet
an_error 'aq: on/o.parquet: cannot write: File too large'
files on
limited 2 4000 quantize big.safetensors on/o.parquet --resume
an_error 'aq: on/o.parquet: cannot write: File too large; what is done is kept: the same command again goes on'
run 0 quantize big.safetensors on/o.parquet --resume
out_has '^resumed  [1-9][0-9]* of 96 tensors were done$'
cmp -s single.parquet on/o.parquet || fault 'other bytes'
rm -f on/*
if mount -t tmpfs -o size=8m none small_disk 2>/dev/null; then
    run 2 quantize big.safetensors small_disk/o.parquet
    an_error 'aq: small_disk/o.parquet: cannot write: No space left on device'
    files small_disk
    run 2 quantize big.safetensors small_disk/o.parquet --resume
    silent
    err_has '^aq: small_disk/o\.parquet: cannot write: No space left on device'
    mount -o remount,size=64m small_disk
    run 0 quantize big.safetensors small_disk/o.parquet --resume
    cmp -s single.parquet small_disk/o.parquet || fault 'other bytes'
    files small_disk o.parquet
    umount small_disk
fi

begin 'events: a reader that leaves'
"$aq" quantize big.safetensors on/o.parquet --events 2>"$w/err" | head -1 >"$w/out"
quiet
files on o.parquet
cmp -s single.parquet on/o.parquet || fault 'other bytes'
rm -f on/*

# --- Input that becomes shorter ---------------------------------------------------------------

# shrink BYTES ARGUMENT...: aq, whose input holes.safetensors of 256 MiB is cut when its
# output begins
shrink() {
    left=$1
    shift
    "$gen" a F32 8192x4096 hole b F32 8192x4096 hole >holes.safetensors
    expect 0 "$host" shrink holes.safetensors "$left" on "$aq" "$@"
    out_has '^exit 2$'
}

begin 'input that becomes shorter'
became='became shorter, or cannot be read, while it was mapped; use --io read'
for options in '' '--io map --threads 7' '--io map --no-streaming'; do
    # shellcheck disable=SC2086
    shrink 100000 quantize holes.safetensors on/o.parquet $options
    err_is "aq: holes.safetensors: the file $became"
    files on
done
# In the first case the page that is read is gone, here one that will be.
shrink 250000000 quantize holes.safetensors on/o.parquet
err_is "aq: holes.safetensors: the file $became"
files on
shrink 100000 convert holes.safetensors on/o.safetensors
err_is "aq: holes.safetensors: the file $became"
files on
shrink 100000 quantize holes.safetensors on/o.parquet --io read
err_is 'aq: holes.safetensors: the file became shorter while open (tensor "a")'
files on
shrink 100000 quantize holes.safetensors on/o.parquet --resume
err_is "aq: holes.safetensors: the file $became"
rm -f on/.o.*
# In the middle of a write from the mapping the system does not send a signal.
for threads in 1 1 2; do
    "$gen" a F32 8192x4096 hole b F32 8192x4096 hole >holes.safetensors
    expect 0 "$host" cut holes.safetensors 100000 on/.o.parquet.aq-part 2000000 \
        "$aq" convert holes.safetensors on/o.parquet --resume --threads $threads
    out_is 'exit 2'
    err_is "aq: holes.safetensors: the file $became"
    rm -f on/.o.*
done
shrink 100000 quantize holes.safetensors on/o.parquet --events
err_is "aq: holes.safetensors: the file $became"
grep -v '^exit' "$w/out" | jq -ces '.[-1]' >"$w/value"
echo '{"event":"failed","file":"holes.safetensors","status":"io","name":null,"message":"the file '"$became"'"}' |
    same "$w/value"
expect 0 "$host" stop 7 on "$aq" quantize big.safetensors on/o.parquet
out_is 'signal 7' # one that was sent is none of these
rm -rf on holes.safetensors hole.safetensors hole.parquet single.parquet q.parquet

begin '--io read'
run 0 quantize model.safetensors o.parquet --io map
run 0 quantize model.safetensors o2.parquet --io read --keep nowhere\|ids
cmp -s o.parquet o2.parquet || fault 'other bytes'
run 0 quantize model.safetensors o2.parquet --io read --report o.html
cmp -s o.parquet o2.parquet || fault 'other bytes'
for command in convert dequantize; do
    run 0 $command q4.parquet o.parquet --io map
    run 0 $command q4.parquet o2.parquet --io read --no-streaming --max-memory 1M
    cmp -s o.parquet o2.parquet || fault "$command: other bytes"
    run 2 $command q4.parquet o.parquet --io mmap
    usage_error "aq: $command: --io takes map or read, not \"mmap\"" $command
done
rm -f o.parquet o2.parquet o.html

# --- Models at the edges ----------------------------------------------------------------------

begin 'rows without columns, and columns without rows'
"$gen" rows F32 1152921504606846976x0 ramp w F32 4x64 ramp \
    columns F16 0x1152921504606846976 ramp ids I64 1152921504606846976x0 ramp >many.safetensors
run 0 quantize many.safetensors many.parquet
out_has '^quantized 1 of 4 tensors; 3 kept as they are$'
run 0 verify many.parquet
run 0 compare many.safetensors many.parquet
run 0 inspect many.parquet
run 0 dequantize many.parquet many_back.safetensors
run 0 convert many.safetensors many_float.parquet
run 0 cat many_float.parquet

begin 'a folder as output'
run 0 quantize model.safetensors folder/
files folder b.parquet ids.parquet w.parquet
run 0 compare q4.parquet folder --json
json '[.total.sqnr_db, (.tensors | length)]' '["Infinity",3]'
run 0 verify folder
run 0 inspect folder/b.parquet --json
config=$("$aq" inspect q4.parquet --json | jq -c '.metadata["arrowquant.config"]')
json '.metadata["arrowquant.config"]' "$config"
[ "$config" != null ] || fault 'no configuration'
for command in convert dequantize; do
    run 0 $command folder again/
    files again b.parquet ids.parquet w.parquet
    rm -rf again
done
run 2 quantize model.safetensors folder/
an_error 'aq: folder/: cannot write the directory: File exists'
run 2 quantize model.safetensors q4.parquet/
silent
err_has '^aq: q4\.parquet/: .*Not a directory'
mkdir .left.aq-tmp
run 2 quantize model.safetensors left/
silent
err_has '^aq: \.left\.aq-tmp: another job is writing this output, or left this directory behind; remove it'
rmdir .left.aq-tmp
rm -rf folder
mkdir in
expect 0 "$host" stop 2 in "$aq" convert big.safetensors in/o/
out_is 'exit 130'
files in
rmdir in

begin 'no tensors'
"$gen" >zero.safetensors
run 0 quantize zero.safetensors zero.parquet
out_has '^quantized 0 of 0 tensors'
run 0 quantize zero.safetensors zero.parquet --resume --json
json '[.num_tensors, .num_resumed, .bytes_in]' '[0,0,0]'
run 0 inspect zero.parquet --json
json .num_tensors 0
run 0 convert zero.parquet zero2.safetensors
run 0 dequantize zero.parquet zero2.parquet
run 0 verify zero.parquet zero2.parquet zero2.safetensors
run 0 quantize zero.safetensors part.parquet --shard 1/2
run 0 quantize zero.safetensors part.parquet --shard 2/2
run 0 merge zero2.parquet part-0000?-of-00002.parquet
cmp -s zero.parquet zero2.parquet || fault 'merged: other bytes'
rm -f zero* part-*

begin 'names that are no file names'
kib4=$(printf '%4096s' '' | tr ' ' n)
wide=$(printf 'gr\303\266\303\237e \345\220\215')
"$gen" a/b F32 8x64 random ../../up F32 8x64 random .. F32 8x64 random . F32 8x64 random \
    "$wide" F32 8x64 random "$kib4" F32 8x64 random %2F F32 8x64 random A/B F32 8x64 random \
    >names.safetensors
mkdir -p deep/er
run 0 quantize names.safetensors deep/er/o.parquet
quiet
run 0 quantize names.safetensors deep/er/o/
files deep er
files deep/er o o.parquet
[ "$(find deep/er/o -type f -name '*.parquet' | wc -l)" -eq 8 ] || fault "$(ls deep/er/o)"
run 0 compare deep/er/o.parquet deep/er/o --json
json '[.total.sqnr_db, (.tensors | length), .only_in_a, .only_in_b]' '["Infinity",8,[],[]]'
run 0 inspect deep/er/o --json
json '[.tensors[].name | length] | sort' '[1,2,3,3,3,7,8,4096]'
run 0 dequantize deep/er/o names2.safetensors
run 0 compare deep/er/o names2.safetensors --json
json .total.sqnr_db '"Infinity"'
"$gen" 'a\u0000b' F32 8x64 random >nul.safetensors
run 2 quantize nul.safetensors deep/er/nul.parquet
silent
err_has '^aq: nul\.safetensors: '
files deep/er o o.parquet
rm -rf deep names.safetensors names2.safetensors nul.safetensors

begin 'memory that is not enough'
for job in 'quantize model.safetensors' 'dequantize q4.parquet' 'convert model.safetensors --io read'; do
    # shellcheck disable=SC2086
    run 2 $job never.parquet --max-memory 3
    silent
    err_has '^aq: (model|q4)\.[a-z]+: 3 bytes of memory are not enough for the smallest piece of this tensor \(tensor "[a-z]+"\); allow [0-9]+$'
    # Other tensors may need more: some steps come to what is enough.
    tries=0
    while least=$(sed -n 's/.*allow \([0-9]*\)$/\1/p' "$w/err") && [ -n "$least" ]; do
        [ $tries -lt 4 ] || break
        # shellcheck disable=SC2086
        "$aq" $job o.parquet --max-memory "$least" >"$w/out" 2>"$w/err"
        got=$?
        tries=$((tries + 1))
    done
    [ $got -eq 0 ] || fault "$job: exit $got with $least bytes: $(cat "$w/err")"
    [ ! -e never.parquet ] || fault 'there is an output'
done

begin '--chunk-size'
run 0 convert model.safetensors chunks.parquet --chunk-size 100K
run 0 meta chunks.parquet --json
json '.row_groups | length' 8
run 0 inspect chunks.parquet --json
json '[.tensors[].shape]' '[[512],[3],[256,512]]'
run 0 compare model.safetensors chunks.parquet --json
json '[.tensors[] | .max_abs_error, .different_bytes]' '[0,null,null,0,0,null]'
run 0 dequantize chunks.parquet chunks.safetensors --chunk-size 1
run 0 compare model.safetensors chunks.safetensors --json
json '[.tensors[] | .max_abs_error, .different_bytes]' '[0,null,null,0,0,null]'
run 0 quantize chunks.parquet q-chunks.parquet --chunk-size 10K --no-streaming
run 0 compare q4.parquet q-chunks.parquet --json
json .total.sqnr_db '"Infinity"'
for command in quantize dequantize convert merge; do
    run 2 $command a b --chunk-size 0
    usage_error "aq: $command: --chunk-size takes a size such as 512M or 1.5GiB, not \"0\"" \
        $command
done
rm -f chunks.* q-chunks.parquet o.parquet

# --- dequantize, convert, compare -----------------------------------------------------------

begin 'dequantize'
run 0 dequantize q4.parquet back.safetensors
out_has '^dequantized 3 tensors$'
out_has '^file     back\.safetensors, '
run 0 inspect back.safetensors --json
json '[.format, [.tensors[] | [.name, .dtype, .bit_width]]]' \
    '["safetensors",[["b","float32",0],["ids","int64",0],["w","float32",0]]]'
run 0 dequantize q4.parquet back.parquet --json
json '[.operation, .num_tensors]' '["dequantize",3]'
run 0 compare back.safetensors back.parquet --json
json '[.total.max_abs_error, .total.sqnr_db]' '[0,"Infinity"]'

begin 'convert: to Parquet and back'
run 0 convert model.safetensors c.parquet
out_has '^converted 3 tensors$'
run 0 convert c.parquet c.safetensors --json
json '[.operation, .bytes_in, .bytes_out]' '["convert",526360,526360]'
run 0 compare model.safetensors c.safetensors --json
json '[.tensors[] | .max_abs_error, .different_bytes]' '[0,null,null,0,0,null]'
run 0 verify c.parquet c.safetensors

begin 'convert: codes cannot go to safetensors'
run 2 convert q4.parquet no.safetensors
silent
err_has '^aq: q4\.parquet: .'
[ ! -e no.safetensors ] || fault 'there is an output'

begin 'compare: text'
run 0 compare model.safetensors q4.parquet
golden compare-q4
quiet

begin 'compare: JSON'
run 0 compare model.safetensors q4.parquet --json
quiet
json '[.a, .b]' '["model.safetensors","q4.parquet"]'
json '[.tensors[] | [.name, .bit_width]]' '[["b",0],["ids",0],["w",4]]'
json '[.shape_differs, .only_in_a, .only_in_b]' '[[],[],[]]'
holds '.total.num_params == 131584 and .total.sqnr_db > 18'
sqnr=$(jq '.tensors[2].sqnr_db' "$w/out")
run 0 inspect q4.parquet --json
json "(.tensors[2].sqnr_db - $sqnr) | fabs < 1e-6" true
# A NaN that was measured is told, and is not what was not measured.
"$gen" good F32 8x64 random 'bad one' F32 8x64 ramp none F32 0x4 ramp >finite.safetensors
"$gen" good F32 8x64 random 'bad one' F32 8x64 nan none F32 0x4 ramp >not_finite.safetensors
run 0 compare finite.safetensors not_finite.safetensors --json
json '[.tensors[] | [.name, .mse]]' '[["bad one","NaN"],["good",0],["none",null]]'
json .total.mse '"NaN"'

begin 'compare: what does not match'
"$gen" w F32 256x256 random b F32 512 random new F32 8 ramp ids I64 3 zero >other.safetensors
run 1 compare model.safetensors other.safetensors
quiet
out_has '^w: float32 256x512 in A, float32 256x256 in B$'
out_has '^ids: 2 bytes differ$'
out_has '^new: only in B$'
out_has '; 3 do not match$'
run 1 compare model.safetensors other.safetensors --json
json '.shape_differs' \
    '[{"name":"w","shape_a":[256,512],"dtype_a":"float32","shape_b":[256,256],"dtype_b":"float32"}]'
json '[.only_in_a, .only_in_b]' '[[],["new"]]'
json '.tensors[] | select(.name == "ids").different_bytes' 2
run 1 compare other.safetensors model.safetensors --json
json '[.only_in_a, .only_in_b]' '[["new"],[]]'
run 2 compare model.safetensors missing.safetensors
an_error 'aq: missing.safetensors: cannot open: No such file or directory'

# --- schema, meta ---------------------------------------------------------------------------

begin 'schema'
run 0 schema q4.parquet
golden schema-q4
run 0 schema q4.parquet --json
json '.fields[0] | [.name, .repetition, .type, .logical_type, .column]' \
    '["layer_name","required","binary","STRING",0]'
json '[.fields[] | select(.name == "shape") | .. | objects | .name]' '["shape","list","element"]'
run 2 schema small.safetensors
silent
err_has '^aq: small\.safetensors: .'

begin 'meta'
run 0 meta q4.parquet
out_has '^q4\.parquet: 3 rows in 3 row groups, [0-9]+ columns$'
out_has '^created by: arrowquant\.h '
out_has '^data  *2  *binary  *none  *PLAIN'
out_lacks '^page of'
run 0 meta q4.parquet --json
json '.num_rows' 3
json '.file_bytes' "$(wc -c <q4.parquet | tr -d ' ')"
json '[.row_groups[].columns[] | select(.path == "layer_name") | .min, .max]' \
    '["b","b","ids","ids","w","w"]'
json '[.row_groups[].columns[].pages] | unique' '[null]'

begin 'meta: pages'
run 0 meta q4.parquet --pages
out_has '^page of'
run 0 meta q4.parquet --pages --json
json '[.row_groups[].columns[] | select(.path == "data").pages[].alignment >= 64] | unique' '[true]'
json '[.row_groups[].columns[] | select(.path | test("^(scales|zero_points)")) | .pages[] |
    select(.num_values > 1).alignment >= 64] | unique' '[true]'
json '[.row_groups[].columns[].pages[] | .header_offset + .header_bytes == .data_offset] | unique' \
    '[true]'
json '[.row_groups[].columns[].pages[].crc == null] | unique' '[false]'

# --- cat ------------------------------------------------------------------------------------

for name in types numbers lists fixed contradiction surplus; do
    "$table" $name >$name.parquet
done

begin 'cat: every logical type'
run 0 cat types.parquet
golden cat-types
quiet
jq -e . "$w/out" >"$w/jq" || fault 'not JSON lines'
run 0 cat types.parquet --raw
golden cat-types-raw
run 0 verify types.parquet

begin 'cat: the shortest digits'
run 0 cat numbers.parquet
out_is '{"f32": 1e-45, "f64": 5e-324}' \
    '{"f32": 1.1754944e-38, "f64": 2.2250738585072014e-308}' \
    '{"f32": 3.4028235e+38, "f64": 1.7976931348623157e+308}' \
    '{"f32": -9.8607613e-32, "f64": 5.684341886080802e-14}' \
    '{"f32": 1e+06, "f64": 1e+15}' '{"f32": 16777216, "f64": 1.2345678901234568e+17}' \
    '{"f32": 0.0001, "f64": -9007199254740992}' '{"f32": 1e-05, "f64": 1e+23}'

begin 'cat: lists and maps, also of old writers'
run 0 cat lists.parquet
golden cat-lists
run 0 cat lists.parquet --columns rule3,old_map.map.num --columns group.b
out_is '{"rule3": [[1, 2], [3], []], "old_map": [{"value": null}, {"value": 7}], "group": [{"b": [3, 4]}, {"b": []}]}' \
    '{"rule3": null, "old_map": [], "group": []}'
run 0 cat lists.parquet --columns 'no list.b.c' --rows 1
out_is '{"no list": {"b.c": 3}}'

begin 'cat: absent arrays with the levels of their elements'
run 0 cat fixed.parquet
out_is '{"x": [[{"a": 1, "b": 3}, {"a": 2, "b": 4}], null, []]}' '{"x": null}' '{"x": []}'
run 0 cat fixed.parquet --columns x.list.element.list.b --rows 2
out_is '{"x": [[{"b": 3}, {"b": 4}], null, []]}' '{"x": null}'

begin 'cat: a model'
run 0 cat q4.parquet --columns layer_name,shape,bit_width
out_is '{"layer_name": "b", "shape": [512], "bit_width": 0}' \
    '{"layer_name": "ids", "shape": [3], "bit_width": 0}' \
    '{"layer_name": "w", "shape": [256, 512], "bit_width": 4}'
run 0 cat q4.parquet
json '[.scales | length]' "$(printf '[0]\n[0]\n[1024]')"

begin 'cat: rows'
run 0 cat types.parquet --rows 2 --columns date
out_is '{"date": "2024-01-31"}' '{"date": "1969-12-31"}'
run 0 cat types.parquet --rows 99 --columns bool
out_is '{"bool": true}' '{"bool": false}' '{"bool": true}'
all=$(cat "$w/out")
run 0 cat types.parquet --rows 5000000000 --columns bool
out_is "$all"
run 2 cat types.parquet --rows 9223372036854775808
usage_error 'aq: cat: --rows takes a number, not "9223372036854775808"' cat
run 0 cat types.parquet --rows 0
silent
run 2 cat types.parquet --rows 1 --rows 2
usage_error 'aq: cat: option --rows is given twice' cat
run 2 cat types.parquet --rows -1
usage_error 'aq: cat: --rows takes a number, not "-1"' cat

begin 'cat: a column that does not exist'
run 2 cat types.parquet --columns date,interva
an_error 'aq: types.parquet: no column "interva"; the nearest name is "interval"'
run 2 cat lists.parquet --columns old_map.mop
an_error 'aq: lists.parquet: no column "old_map.mop"; the nearest name is "old_map.map"'
run 2 cat lists.parquet --columns rule
an_error 'aq: lists.parquet: no column "rule"; the nearest name is "rule1"'
run 2 cat types.parquet --columns ''
silent

begin 'cat: columns that contradict each other'
run 2 cat contradiction.parquet
out_is '{"group": [{"a": 1, "b": 1}]}'
err_is 'aq: contradiction.parquet: row 2: the levels of column "group.b" contradict those of the columns beside it'
run 0 cat contradiction.parquet --columns group.b
out_is '{"group": [{"b": 1}]}' '{"group": [{"b": 2}]}' '{"group": [{"b": 3}, {"b": 4}]}'
run 2 cat surplus.parquet
err_has 'row 4: .*"group\.b"'

begin 'cat: unreadable files'
run 2 cat missing.parquet
an_error 'aq: missing.parquet: cannot open: No such file or directory'
run 2 cat small.safetensors
silent
err_has '^aq: small\.safetensors: .'
run 2 cat
usage_error 'aq: cat: missing operand' cat

# --- verify ---------------------------------------------------------------------------------

begin 'verify: good files'
run 0 verify q4.parquet small.safetensors
quiet
out_has '^q4\.parquet: ok \(3 tensors, 3 row groups, [0-9]+ pages, [0-9.]+ KiB\)$'
out_has '^small\.safetensors: ok \(6 tensors, [0-9.]+ KiB\)$'

begin 'verify: a flipped bit in the codes'
run 0 meta q4.parquet --pages --json
at=$(jq '.row_groups[2].columns[] | select(.path == "data").pages[0].values_offset' "$w/out")
cp q4.parquet flipped.parquet
byte=$(od -An -tu1 -j "$((at + 1000))" -N 1 q4.parquet)
# shellcheck disable=SC2059
printf "\\$(printf %o $(((byte + 1) % 256)))" |
    dd of=flipped.parquet bs=1 seek="$((at + 1000))" conv=notrunc 2>/dev/null
run 1 verify flipped.parquet
silent
err_has '^aq: flipped\.parquet: .*CRC-32'
run 2 cat flipped.parquet
err_has '^aq: flipped\.parquet: .*CRC-32'
[ "$(wc -l <"$w/out")" -eq 2 ] || fault 'not the two rows before the damage'
run 0 cat flipped.parquet --rows 2 # what is not asked for is not read
run 0 cat flipped.parquet --columns layer_name
out_is '{"layer_name": "b"}' '{"layer_name": "ids"}' '{"layer_name": "w"}'
run 1 verify q4.parquet flipped.parquet small.safetensors
out_has '^q4\.parquet: ok '
out_has '^small\.safetensors: ok '

begin 'verify: cut files'
head -c 5000 q4.parquet >cut.parquet
run 1 verify cut.parquet
silent
err_has '^aq: cut\.parquet: .'
run 1 verify cut.safetensors
err_has '^aq: cut\.safetensors: .'

begin 'a folder of Parquet files is a model'
mkdir folder
cp q4.parquet folder/a.parquet
"$gen" other F32 8x64 random >other1.safetensors
run 0 quantize other1.safetensors folder/b.parquet --bits 8
echo text >folder/notes.txt
run 0 inspect folder --json
json '[.format, [.tensors[].name]]' '["directory",["b","ids","other","w"]]'
run 0 verify folder
out_has '^folder: ok \(4 tensors, 2 files, 4 row groups, [0-9]+ pages, [0-9.]+ KiB\)$'
cp flipped.parquet folder/a.parquet
run 1 verify folder
err_has '^aq: folder/a\.parquet: page has CRC-32'
run 2 inspect bin
an_error 'aq: bin: no .parquet and no .safetensors file in the directory'

begin 'safetensors in shards are a model'
mkdir shards
"$gen" w F32 8x64 ramp --metadata '{"from":"one"}' >shards/m-00001-of-00002.safetensors
"$gen" v F32 8x64 ramp --metadata '{"from":"two"}' >shards/m-00002-of-00002.safetensors
index=shards/m.safetensors.index.json
echo '{"metadata":{"total_size":4096},"weight_map":{"v":"m-00002-of-00002.safetensors",' \
    '"w":"m-00001-of-00002.safetensors"}}' >$index
run 0 inspect shards --json
json '[.format, [.tensors[].name]]' '["shards",["v","w"]]'
json '.file_bytes' "$(cat shards/* | wc -c | tr -d ' ')"
run 0 verify shards $index
out_has '^shards: ok \(2 tensors, [0-9.]+ KiB\)$'
out_has '^shards/m\.safetensors\.index\.json: ok \(2 tensors, [0-9.]+ KiB\)$'
"$gen" v F32 8x64 ramp w F32 8x64 ramp >joined.safetensors
run 0 compare $index joined.safetensors --json
json '[.tensors[] | .max_abs_error]' '[0,0]'
run 0 quantize $index shards.parquet
run 0 quantize joined.safetensors joined.parquet
run 0 compare shards.parquet joined.parquet --json
json '[.tensors[] | .max_abs_error]' '[0,0]'
quiet
# What is tolerated is told, once for each file, and changes nothing else.
cp shards/m-00001-of-00002.safetensors shards/other.safetensors
sed 's/4096/1e4/' $index >shards/new && mv shards/new $index
run 0 quantize shards noted.parquet --keep '^v$' --min-cosine 0.5
[ "$(wc -l <"$w/err")" -eq 2 ] || fault "$(cat "$w/err")"
err_has '^aq: shards: note: shards/m\.safetensors\.index\.json: the index does not name other\.safetensors, which is left out$'
err_has '^aq: shards: note: .*: total_size is 1e4, the tensors have 4096 bytes$'
out_has '^quantized 1 of 2 tensors'
rm shards/other.safetensors
run 0 inspect $index --json
[ "$(wc -l <"$w/err")" -eq 1 ] || fault "$(cat "$w/err")"
holds '.num_tensors == 2'
sed 's/1e4/4096/' $index >shards/new && mv shards/new $index
rm shards/m-00002-of-00002.safetensors
run 2 quantize shards shards2.parquet
an_error 'aq: shards: shard 2 of 2 is missing: m-00002-of-00002.safetensors (index m.safetensors.index.json)'
[ ! -e shards2.parquet ] || fault 'an output in spite of the error'
cp q4.parquet shards/
run 2 inspect shards
err_has '^aq: shards: the directory mixes \.parquet and \.safetensors files; '

begin 'a .npy file is a model of one tensor'
{
    printf '\223NUMPY\1\0\112\0%s\n' \
        "{'descr': '<f4', 'fortran_order': False, 'shape': (8, 64), }             "
    head -c 2048 /dev/zero
} >array.npy
run 0 inspect array.npy --json
json '[.format, .tensors[0].name, .tensors[0].shape, .tensors[0].dtype]' \
    '["npy","array",[8,64],"float32"]'
run 0 verify array.npy
out_has '^array\.npy: ok \(1 tensor, [0-9.]+ KiB\)$'
run 0 quantize array.npy array.parquet
run 0 compare array.npy array.parquet --json
json '[.tensors[] | [.name, .max_abs_error]]' '[["array",0]]'
head -c 2000 array.npy >cut.npy
run 2 quantize cut.npy o2.parquet
err_has '^aq: cut\.npy: dtype and shape need 2048 bytes, [0-9]+ follow the header; '

begin 'a model without a tensor'
"$gen" >none.safetensors
run 0 inspect none.safetensors
out_has '^0 tensors, 0 parameters, - bits per weight$'
run 0 quantize none.safetensors none.parquet
out_has '^tensors  0 B -> 0 B$'
run 0 verify none.parquet none.safetensors
out_has '^none\.parquet: ok \(0 tensors, 0 row groups, 0 pages, '
run 0 compare none.safetensors none.parquet --json
json .total null

begin 'verify: unreadable beats bad'
run 2 verify missing.parquet
an_error 'aq: missing.parquet: cannot open: No such file or directory'
run 2 verify missing.parquet flipped.parquet
[ "$(wc -l <"$w/err")" -eq 2 ] || fault 'not one line for each file'

# --- Terminal -------------------------------------------------------------------------------

escape=$(printf '\033')

begin 'colour only on a terminal'
run 0 inspect model.safetensors
out_lacks "$escape"
expect 0 "$host" terminal 100 "$aq" inspect model.safetensors
out_has "$escape\[1m"
expect 0 env NO_COLOR=1 "$host" terminal 100 "$aq" inspect model.safetensors
out_lacks "$escape"
expect 0 env TERM=dumb "$host" terminal 100 "$aq" inspect model.safetensors
out_lacks "$escape"
expect 0 "$host" terminal 100 "$aq" inspect model.safetensors --json
out_lacks "$escape"

begin 'progress only on a terminal'
run 0 quantize big.safetensors o.parquet
quiet
expect 0 "$host" terminal 120 "$aq" quantize big.safetensors o.parquet
out_has 'quantizing +[0-9]+% \[#*-*\] .* of 96\.0 MiB'
expect 0 "$host" terminal 120 sh -c "'$aq' quantize big.safetensors o.parquet 2>/dev/null"
out_lacks quantizing
expect 0 env TERM=dumb "$host" terminal 120 "$aq" quantize big.safetensors o.parquet
out_lacks quantizing

begin 'progress in lines where there is no terminal'
expect 0 env AQ_PROGRESS_SECONDS=0.01 "$aq" quantize big.safetensors o.parquet --threads 1
cp "$w/err" "$w/out"
out_has '^quantizing [0-9]+%  [0-9]+ of 96 tensors  [0-9.]+ [KM]iB of 96\.0 MiB  [0-9.]+ [MG]B/s  0:[0-9][0-9] left$'
out_lacks "$(printf '[\033\r]')"
lines=$(wc -l <"$w/err")
[ "$lines" -ge 3 ] || fault "$lines lines"
for seconds in 0 1000 x ''; do
    expect 0 env AQ_PROGRESS_SECONDS="$seconds" "$aq" quantize big.safetensors o.parquet
    quiet
done
expect 0 "$host" terminal 120 "$aq" quantize big.safetensors o.parquet
out_has '\] [0-9]+ of 96  [0-9.]+ [KM]?i?B of 96\.0 MiB'
tr '\r' '\n' <"$w/out" | sed 's/.\[K//' | awk 'length > 119' >"$w/long"
[ ! -s "$w/long" ] || fault "wider than the terminal: $(head -1 "$w/long")"

begin 'events'
run 0 quantize big.safetensors o.parquet --events
quiet
jq -ces . "$w/out" >"$w/events" || fault 'not JSON'
[ "$(wc -l <"$w/out")" = "$(jq length "$w/events")" ] || fault 'not an object on each line'
cp "$w/events" "$w/out"
json '.[0]' '{"event":"started","operation":"quantize","input":"big.safetensors","output":"o.parquet"}'
json '[.[].event] | unique' '["finished","progress","started"]'
json '[.[-1].event, .[-1].report.num_tensors, (.[-1].report.tensors | length)]' '["finished",96,96]'
holds '[.[] | select(.event == "progress")] | length >= 97 and
    ([.[].tensors_done] | . == sort and .[-1] == 96) and ([.[].bytes_done] | . == sort) and
    all(.[]; .tensors_total == 96 and .bytes_total == 100663296 and .seconds >= 0)'
jq -S '.[-1].report | del(.seconds, .bytes_per_second)' "$w/events" >"$w/last"
run 0 quantize big.safetensors o.parquet --json
jq -S 'del(.seconds, .bytes_per_second)' "$w/out" | same "$w/last"
for command in dequantize convert; do
    run 0 $command q4.parquet o.parquet --events
    jq -ces '[.[0].operation, .[-1].event, .[-1].report.operation]' "$w/out" >"$w/value"
    echo "[\"$command\",\"finished\",\"$command\"]" | same "$w/value"
done
run 2 quantize model.safetensors o.parquet --events --json
usage_error 'aq: quantize: --events and --json exclude each other' quantize

begin 'events: failed, cancelled'
run 2 quantize nan.safetensors never.parquet --fail-fast --events
err_has '^aq: nan\.safetensors: '
jq -ces 'map(del(.message)) | .[-1]' "$w/out" >"$w/value"
echo '{"event":"failed","file":"nan.safetensors","status":"nonfinite","name":"bad one"}' |
    same "$w/value"
for file in bad 'bad one'; do # a tensor whose name begins as the file's
    cp nan.safetensors "$file"
    run 2 quantize "$file" never.parquet --fail-fast --events
    err_has "^aq: $file: NaN "
    jq -ces '.[-1] | [.file, .name]' "$w/out" >"$w/value"
    echo "[\"$file\",\"bad one\"]" | same "$w/value"
    rm -f "$file"
done
run 2 quantize missing.safetensors never.parquet --events
jq -ces '[.[].event]' "$w/out" >"$w/value"
echo '["started","failed"]' | same "$w/value"
# What is seen before the job itself starts is told as well.
# refused FILE STATUS OUTPUT ARGUMENT...: these events
refused() {
    jq -cn '[["started", $o, null], ["failed", $f, $s]]' --arg f "$1" --arg s "$2" --arg o "$3" \
        >"$w/wanted_events"
    shift 3
    run 2 "$@" --events
    jq -ces '[.[] | [.event, .output // .file, .status]]' "$w/out" >"$w/value"
    same "$w/value" <"$w/wanted_events"
    [ "$(wc -l <"$w/err")" -eq 1 ] || fault 'not one line on stderr'
}
refused missing.safetensors io o.parquet quantize missing.safetensors o.parquet --keep a
refused model.safetensors not_found o.parquet quantize model.safetensors o.parquet --keep nothing
refused model.safetensors not_found o-00001-of-00002.parquet \
    quantize model.safetensors o.parquet --tensor no=8 --shard 1/2
refused nowhere/r.html io o.parquet quantize model.safetensors o.parquet --report nowhere/r.html
refused o.parquet argument o.parquet quantize model.safetensors o.parquet --report o.parquet
refused model.safetensors argument o.parquet \
    quantize model.safetensors o.parquet --report model.safetensors
refused o.parquet argument o.parquet quantize model.safetensors o.parquet --calibration o.parquet
refused missing.parquet io o.parquet merge o.parquet missing.parquet
refused q4.parquet argument o.parquet merge o.parquet q4.parquet
run 0 quantize model.safetensors part.parquet --shard 1/2
refused o.parquet argument o.parquet merge o.parquet part-00001-of-00002.parquet
refused part-00001-of-00002.parquet duplicate o.parquet \
    merge o.parquet part-00001-of-00002.parquet part-00001-of-00002.parquet
rm -rf stop && mkdir stop
expect 0 "$host" stop 15 stop "$aq" quantize big.safetensors stop/o.parquet --events
grep -v '^exit' "$w/out" | jq -ces '.[-1]' >"$w/value"
echo '{"event":"cancelled","signal":15}' | same "$w/value"
files stop
rm -f big.safetensors o.parquet

begin 'wide characters take two columns, marks none'
wide=$(printf '\345\220\215\345\211\215')
accent=$(printf 'e\314\201')
"$gen" "$wide" F32 8x8 ramp "$accent" F32 8x8 ramp plain F32 8x8 ramp >wide.safetensors
run 0 inspect wide.safetensors
out_has "^$wide   8x8    float32"
out_has "^$accent      8x8    float32"
out_has '^plain  8x8    float32'

begin 'a very long name does not make the other lines long'
long=$(head -c 5000 /dev/zero | tr '\0' x)
"$gen" "$long" F32 8x8 ramp short F32 8x8 ramp >long.safetensors
run 0 inspect long.safetensors
out_has "^${long}  8x8  "
out_has "^short {197}8x8  "
[ "$(wc -c <"$w/out")" -lt 6000 ] || fault "$(wc -c <"$w/out") bytes"

begin 'names are elided on a narrow terminal only'
long=model.layers.27.self_attention.query_key_value.projection.weight
"$gen" "$long" F32 128x256 ramp short F32 8x8 ramp >long.safetensors
run 0 inspect long.safetensors
out_has "^$long "
expect 0 env NO_COLOR=1 "$host" terminal 80 "$aq" inspect long.safetensors
out_lacks "^$long"
out_has '^model\..*\.\.\..*\.weight '
head -3 "$w/out" | tr -d '\r' | awk 'length > 80' >"$w/long"
[ ! -s "$w/long" ] || fault "wider than the terminal: $(cat "$w/long")"
expect 0 env NO_COLOR=1 "$host" terminal 160 "$aq" inspect long.safetensors
out_has "^$long "

# --- Real files -----------------------------------------------------------------------------

begin 'a real model'
if [ -f "$shared/models/taef2_decoder.safetensors" ]; then
    cp "$shared/models/taef2_decoder.safetensors" real.safetensors
    run 0 inspect real.safetensors --json
    json '[.num_tensors, .num_params]' '[79,1338499]'
    run 0 quantize real.safetensors real.parquet --json
    holds '.num_quantized > 30 and .sqnr_db > 15 and .bits_per_weight < 5'
    run 0 verify real.safetensors real.parquet
    run 0 compare real.safetensors real.parquet --json
    json '.tensors | length' 79
    run 0 dequantize real.parquet real-back.safetensors
    run 0 compare real.parquet real-back.safetensors --json
    json .total.sqnr_db '"Infinity"'
else
    skip 'no ../shared/models'
fi

begin 'Parquet files of other writers'
if [ -d "$shared/parquet-testing/data" ]; then
    data=$shared/parquet-testing/data
    for file in alltypes_plain nested_lists.snappy nested_maps.snappy nulls.snappy \
        alltypes_dictionary delta_byte_array datapage_v2.snappy; do
        run 0 schema "$data/$file.parquet"
        run 0 schema "$data/$file.parquet" --json
        holds '.fields | length > 0'
        run 0 meta "$data/$file.parquet" --pages
        run 0 meta "$data/$file.parquet" --pages --json
        holds '.row_groups | length > 0'
    done
    for file in alltypes_plain alltypes_dictionary nested_lists.snappy nested_maps.snappy nulls.snappy; do
        run 0 verify "$data/$file.parquet"
        out_has ': ok \(1 row group, [0-9]+ pages?, '
    done
    run 0 schema "$data/nested_maps.snappy.parquet"
    golden schema-nested-maps
    for file in nullable.impala nested_structs.rust repeated_no_annotation; do
        run 0 cat "$data/$file.parquet"
        golden "cat-$file"
    done
    run 0 meta "$data/null_list.parquet"
    out_has '^ARROW:schema = [A-Za-z0-9/+]{100}\.\.\. \(240 bytes\)$'
    run 0 meta "$data/null_list.parquet" --json
    holds '.key_values[0].value | length == 240'
    run 0 meta "$data/encrypt_columns_plaintext_footer.parquet.encrypted" --pages
    out_has '^float_field  *0  float  *encrypted  *-  *-  *-  *-  *-  *-$'
    out_has '^ba_field  *0  data '
    run 0 meta "$data/encrypt_columns_plaintext_footer.parquet.encrypted" --json
    json '[.row_groups[].columns[] | select(.encrypted) | .path]' '["float_field","double_field"]'
    run 2 cat "$data/encrypt_columns_plaintext_footer.parquet.encrypted"
    err_has 'column chunk is encrypted \(column float_field, row group 0\); name the others with --columns$'
    run 0 cat "$data/encrypt_columns_plaintext_footer.parquet.encrypted" --columns int32_field --rows 1
    out_is '{"int32_field": "00:00:00.000Z"}'
    bad=$shared/parquet-testing/bad_data/ARROW-GH-41321.parquet
    run 2 meta "$bad" --pages
    out_has '^geometry  *1  data  *PLAIN_DICTIONARY '
    err_has 'page with a negative number of values \(column map_float32\.key_value\.value, row group 1, '
    run 2 meta "$bad" --pages --json
    json '[.row_groups[].columns[] | select(.error) | .path]' '["map_float32.key_value.value"]'
    run 1 verify "$data/datapage_v1-corrupt-checksum.parquet"
    err_has CRC-32
    run 2 verify "$data/encrypt_columns_and_footer.parquet.encrypted"
    err_has encrypt
    cp "$data/encrypt_columns_plaintext_footer.parquet.encrypted" half.parquet
    run 2 verify half.parquet "$data/nulls.snappy.parquet"
    out_has '^half\.parquet: ok but for 2 columns not checked \(1 row group, 11 pages, '
    out_has 'nulls\.snappy\.parquet: ok \('
    err_has '^aq: half\.parquet: column chunk is encrypted \(column float_field, row group 0\): not checked$'
    err_has '^aq: half\.parquet: column chunk is encrypted \(column double_field, row group 0\): not checked$'
    run 0 meta "$data/int32_decimal.parquet" --json
    json '[.row_groups[].columns[] | .min, .max, .deprecated_min, .deprecated_max]' '[null,null,1,24]'
    run 2 inspect "$data/alltypes_plain.parquet"
    silent
    run 0 meta "$data/column_chunk_key_value_metadata.parquet" --json
    json '[.row_groups[].columns[].key_values]' \
        '[[{"key":"foo","value":"bar"},{"key":"thisiskeywithoutvalue","value":null}],[]]'
    run 2 meta "$shared/parquet-testing/bad_data/ARROW-GH-41317.parquet"
    err_has 'list of another type than its field.s \(column uint8, row group 1, offset 49313\)$'
else
    skip 'no ../shared/parquet-testing'
fi

end
if [ "$skipped" -eq 0 ]; then
    echo "$passed passed, $failed failed"
else
    echo "$passed passed, $failed failed, $skipped skipped"
fi
[ "$failed" -eq 0 ]
