# bash: completion of sdbox's verbs, options, directives and jobs.
# Source it, or install it as /usr/share/bash-completion/completions/sdbox.

_sdbox() {
    # bash takes = and : for words of their own. sdbox is to see what was typed: `-p A=b`, `a:b`.
    local words=() index=-1 n word previous=
    for ((n = 0; n <= COMP_CWORD; n++)); do
        word=${COMP_WORDS[n]}
        if ((index > 0)) && [[ $word == [=:]* || $previous == *[=:] ]]; then
            words[index]+=$word
        else
            words[index += 1]=$word
        fi
        previous=$word
    done

    local found
    COMPREPLY=()
    if ! found=$("${words[0]}" complete "$index" "${words[@]}" 2>/dev/null); then
        # What is for the shell to know: files, and programs.
        compopt -o default 2>/dev/null
        return
    fi
    # And bash replaces only what it takes for the word.
    local typed=${words[index]} begun=${COMP_WORDS[COMP_CWORD]}
    [[ $begun == [=:]* ]] && begun=
    while IFS= read -r word; do
        [[ -n $word ]] && COMPREPLY+=("${word#"${typed%"$begun"}"}")
    done <<<"$found"
    [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
}

complete -F _sdbox sdbox
