# Types into an interactive zsh and prints what aq gets:
#   zsh -f keys.zsh FUNCTIONS DIRECTORY
# FUNCTIONS holds _aq, DIRECTORY the files model.safetensors and "my file".
zmodload zsh/zpty || exit 1
cd $2 || exit 1
zpty keyboard 'TERM=dumb PS1= zsh -f -i'
zpty -w keyboard "fpath=($1 \$fpath); autoload -U compinit; compinit -u -D"
zpty -w keyboard 'unsetopt list_beep auto_list auto_menu; stty -echo'
zpty -w keyboard 'aq() { printf "<%s>" "$@" >>$OUT; echo >>$OUT }'
OUT=$(mktemp) || exit 1
zpty -w keyboard "OUT=$OUT"
for keys in $'aq qu\t mod\t my\t' $'aq bench --sv\t mo\t --js\t' \
    $'aq convert mod\t --io\t r\t --th\t mod\t' \
    $'aq quantize --gran\tch\t --config=mod\t' $'aq ver\t mod\t --h\t'; do
    zpty -w keyboard "$keys"
done
zpty -w keyboard 'exit'
zpty -r keyboard screen '*NEVER*'
cat $OUT
rm -f $OUT
