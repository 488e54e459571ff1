# Completion of the aq command for bash.
# tests/install/run.sh compares it with aq --help and aq COMMAND --help.

_aq() {
    local commands='inspect schema meta cat verify quantize config dequantize convert
        merge compare bench'
    local settings='--bits --group-size --granularity --symmetric --no-symmetric --method
        --scales --codebook --no-codebook --tensor --keep --min-cosine --target-bpw
        --target-size --fail-fast --no-fail-fast --calibration --time-groups --time-split
        --activation-bits --optimize-groups --no-optimize-groups --smooth-groups
        --smooth-window --equalize --no-equalize --smooth-input --modality --max-memory
        --streaming --no-streaming --chunk-size --io --profile --threads --config'
    local job='--max-memory --streaming --no-streaming --chunk-size --io --threads
        --events --json'
    local command=${COMP_WORDS[1]} word=${COMP_WORDS[COMP_CWORD]}
    local before=${COMP_WORDS[COMP_CWORD - 1]} words='' i

    # An empty reply is completed by readline, as a file name.
    COMPREPLY=()
    if ((COMP_CWORD == 1)); then
        words="$commands --help --version"
    else
        for ((i = 2; i < COMP_CWORD; i++)); do
            [[ ${COMP_WORDS[i]} == -- ]] && return
        done
        # "--bits=4" comes as three words.
        if [[ $word == = ]]; then
            word=''
        elif [[ $before == = ]]; then
            before=${COMP_WORDS[COMP_CWORD - 2]}
        fi
        case $before in
        --config | --calibration | --report | --svg) return ;;
        --bits) words='2 4 8' ;;
        --granularity) words='group channel tensor' ;;
        --method) words='minmax refine search weighted' ;;
        --scales) words='f32 f16 u8' ;;
        --time-split) words='similar equal' ;;
        --smooth-groups) words='linear cubic sigmoid' ;;
        --modality) words='text code image audio' ;;
        --io) words='map read' ;;
        --profile) words='edge local cloud' ;;
        --shard) words='auto' ;;
        --isa) words='ref avx2 avx512 neon' ;;
        --group-size | --tensor | --keep | --min-cosine | --target-bpw | --target-size | \
            --time-groups | --activation-bits | --smooth-window | --smooth-input | \
            --max-memory | --chunk-size | --threads | --columns | --rows | --mib)
            words=' ' ;;
        *)
            [[ $word == -* || $command == config ]] || return
            case $command in
            inspect) words='--time --json' ;;
            schema | compare) words='--json' ;;
            meta) words='--pages --json' ;;
            cat) words='--columns --rows --raw' ;;
            verify) words='' ;;
            quantize)
                words="$settings --shard --resume --dry-run --report --events --json" ;;
            config) words=$settings ;;
            dequantize | convert) words="$job --resume" ;;
            merge) words=$job ;;
            bench) words='--mib --isa --svg --threads --json' ;;
            *) return ;;
            esac
            words="$words --help"
            ;;
        esac
    fi
    # Nothing here has blanks in it or is a pattern. compopt is for completions only.
    # shellcheck disable=SC2207
    COMPREPLY=($(compgen -W "$words" -- "$word"))
    compopt +o bashdefault +o default 2>/dev/null
    return 0
}

complete -o bashdefault -o default -F _aq aq
