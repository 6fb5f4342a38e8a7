# Completion of sdbox's verbs, options, directives and jobs for bash.
# Installed as /usr/share/bash-completion/completions/sdbox, or sourced from ~/.bashrc.

_sdbox() {
    local found IFS=$'\n'
    # bash takes = and : for words of their own; sdbox is to see what was typed.
    local words=() word index=-1
    local n
    for ((n = 0; n < ${#COMP_WORDS[@]}; n++)); do
        word=${COMP_WORDS[n]}
        if ((n > 0 && index >= 0)) && [[ $word == [=:]* || ${COMP_WORDS[n - 1]} == *[=:] ]] &&
            [[ ${_sdbox_joined:-} != no ]]; then
            words[index]+=$word
        else
            words+=("$word")
            ((++index))
        fi
        ((n == COMP_CWORD)) && break
    done
    if found=$("${COMP_WORDS[0]}" complete "$index" "${words[@]}" 2>/dev/null); then
        # Only what follows the last = or : replaces what bash takes for the word.
        local typed=${words[index]}
        local prefix=${typed%"${COMP_WORDS[COMP_CWORD]}"}
        [[ ${COMP_WORDS[COMP_CWORD]} == [=:] ]] && prefix=$typed
        COMPREPLY=()
        for word in $found; do
            COMPREPLY+=("${word#"$prefix"}")
        done
        [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *= ]] && compopt -o nospace 2>/dev/null
        return 0
    fi
    # Files, and after run the program.
    compopt -o default 2>/dev/null
    COMPREPLY=()
}

complete -F _sdbox sdbox
