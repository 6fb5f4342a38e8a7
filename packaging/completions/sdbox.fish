# fish: completion of sdbox's verbs, options, directives and jobs.
# Install it as /usr/share/fish/vendor_completions.d/sdbox.fish.

function __sdbox_complete
    set -l words (commandline --current-process --tokenize --cut-at-cursor)
    set -l typed (commandline --current-token --cut-at-cursor)
    $words[1] complete (count $words) $words $typed 2>/dev/null
    or __fish_complete_path $typed
end

complete --command sdbox --no-files --arguments '(__sdbox_complete)'
