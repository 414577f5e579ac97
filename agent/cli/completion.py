"""The command `completion`, and what answers the scripts that it prints.

A script calls `callback-agent` with the words of the command line in the environment, and the name
of its shell in COMPLETION_VARIABLE. click finds the command and the parameter that are completed.
The scripts are not click's own: those add a space after each word, so that no event could be
completed field by field.
"""

from __future__ import annotations

import os
from typing import Any

import click
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ZshComplete

from agent.cli.exits import USAGE, Failed
from agent.cli.output import print_lines
from agent.cli.usage import COMPLETION_VARIABLE, PROGRAM

_BASH = r"""
# For bash 4.4 or newer. To use it: eval "$(callback-agent completion bash)"
%(complete_func)s() {
    local type value
    COMPREPLY=()
    while IFS=, read -r type value; do
        case $type in
            dir) compopt -o dirnames ;;
            file) compopt -o default ;;
            part) compopt -o nospace ;;&
            part | plain) printf -v value '%%q' "$value"; COMPREPLY+=("$value") ;;
        esac
    done < <(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD="$COMP_CWORD" \
        %(complete_var)s=bash "$1" 2>/dev/null)
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

_ZSH = r"""
#compdef %(prog_name)s
# To use it: eval "$(callback-agent completion zsh)", or save it as _callback-agent in a folder of
# $fpath.
%(complete_func)s() {
    local -a response plain described parts
    local type value about
    (( $+commands[%(prog_name)s] )) || return 1
    response=("${(@f)$(env COMP_WORDS="${words[*]}" COMP_CWORD=$((CURRENT - 1)) \
        %(complete_var)s=zsh %(prog_name)s 2>/dev/null)}")
    for type value about in "${response[@]}"; do
        case $type in
            dir) _path_files -/ ;;
            file) _path_files -f ;;
            part) parts+=("$value") ;;
            plain)
                if [[ $about == _ ]]; then
                    plain+=("$value")
                else
                    described+=("${value//:/\\:}:$about")
                fi ;;
        esac
    done
    (( $#described )) && _describe -V unsorted described
    (( $#plain )) && compadd -V unsorted -a plain
    (( $#parts )) && compadd -V unsorted -S '' -a parts
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    %(complete_func)s "$@"
else
    compdef %(complete_func)s %(prog_name)s
fi
"""

# fish adds no space after a hyphen or a slash, which is where parts end.
_FISH = r"""
# To use it: callback-agent completion fish | source
function %(complete_func)s
    for line in (env COMP_WORDS=(commandline -cp) COMP_CWORD=(commandline -t) \
            %(complete_var)s=fish %(prog_name)s 2>/dev/null)
        set -l item (string split -m 1 , -- $line)
        switch $item[1]
            case dir
                __fish_complete_directories $item[2]
            case file
                __fish_complete_path $item[2]
            case part plain
                echo $item[2]
        end
    end
end
complete --no-files --command %(prog_name)s --arguments "(%(complete_func)s)"
"""


class _Bash(BashComplete):
    source_template = _BASH.lstrip()

    def format_completion(self, item: CompletionItem[Any]) -> str:
        return f"{item.type},{item.value}"


class _Zsh(ZshComplete):
    source_template = _ZSH.lstrip()

    def format_completion(self, item: CompletionItem[Any]) -> str:
        return f"{item.type}\n{item.value}\n{item.help or '_'}"


class _Fish(FishComplete):
    source_template = _FISH.lstrip()

    def format_completion(self, item: CompletionItem[Any]) -> str:
        about = f"\t{item.help}" if item.help else ""
        return f"{item.type},{item.value}{about}"


_SHELLS = {"bash": _Bash, "zsh": _Zsh, "fish": _Fish}


@click.command()
@click.argument("shell", metavar="SHELL", type=click.Choice([*_SHELLS]))
@click.pass_context
def completion(context: click.Context, shell: str) -> int:
    """Print the script that completes commands in a shell.

    SHELL is bash, zsh or fish. Completes commands, options, events, topics, finding codes,
    directories, and the files that the running agent serves. In ~/.bashrc:

    \b
        eval "$(callback-agent completion bash)"

    In ~/.zshrc, after compinit:

    \b
        eval "$(callback-agent completion zsh)"

    In ~/.config/fish/config.fish:

    \b
        callback-agent completion fish | source
    """
    root = context.find_root().command
    script = _SHELLS[shell](root, {}, PROGRAM, COMPLETION_VARIABLE)
    print_lines((script.source_template % script.source_vars()).splitlines())
    return 0


def complete(root: click.Command, shell: str) -> int:
    """Print what completes the command line that a script describes; the exit status.

    Raises Failed.
    """
    if shell not in _SHELLS or not {"COMP_WORDS", "COMP_CWORD"} <= os.environ.keys():
        raise Failed(USAGE, f"{COMPLETION_VARIABLE} is set, but no completion script set it")
    print_lines(_SHELLS[shell](root, {}, PROGRAM, COMPLETION_VARIABLE).complete().splitlines())
    return 0
