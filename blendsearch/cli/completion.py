"""Completion scripts of shells, made from the argument parser: verbs, their options, and the names of runs."""

import argparse
from collections.abc import Iterator

FOLDER = "${BLENDSEARCH_RUNS:-runs}"
RUN_METAVAR = "RUN"

BASH = """\
# completion of blendsearch; in ~/.bashrc: eval "$(blendsearch completion bash)"
_blendsearch() {{
  local word="${{COMP_WORDS[COMP_CWORD]}}" verb="${{COMP_WORDS[1]}}" words=""
  COMPREPLY=()
  if [ "$COMP_CWORD" -eq 1 ]; then
    COMPREPLY=($(compgen -W "{verbs} --help --version" -- "$word"))
    return
  fi
  case "$verb" in
{cases}
  esac
  if [ "${{word:0:1}}" != "-" ]; then
    case "$verb" in
      {with_runs}) [ "$COMP_CWORD" -eq 2 ] && words="latest $(ls "{folder}" 2>/dev/null)" ;;
    esac
  fi
  COMPREPLY=($(compgen -W "$words" -- "$word"))
  [ "${{#COMPREPLY[@]}}" -eq 0 ] && COMPREPLY=($(compgen -f -- "$word"))
}}
complete -F _blendsearch blendsearch
"""
ZSH = """\
# completion of blendsearch; in ~/.zshrc: eval "$(blendsearch completion zsh)"
(( ${+functions[compdef]} )) || { autoload -U +X compinit && compinit; }
autoload -U +X bashcompinit && bashcompinit
"""


def make_completion(shell: str, parser: argparse.ArgumentParser) -> str:
    """Make the script of ``bash``, ``zsh`` or ``fish``."""
    verbs = _find_verbs(parser)
    if shell == "fish":
        return "".join(f"{line}\n" for line in _format_fish(verbs))
    cases = "\n".join(f'    {name}) words="{" ".join(_list_options(made))}" ;;' for name, made in verbs.items())
    with_runs = "|".join(name for name, made in verbs.items() if _takes_run(made))
    script = BASH.format(verbs=" ".join(verbs), cases=cases, with_runs=with_runs, folder=FOLDER)
    return script if shell == "bash" else ZSH + script.partition("\n")[2]


def _find_verbs(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    (found,) = (item for item in parser._actions if isinstance(item, argparse._SubParsersAction))
    return dict(found.choices)


def _list_options(parser: argparse.ArgumentParser) -> list[str]:
    options = [option for action in _list_shown(parser) for option in action.option_strings if option.startswith("--")]
    return [
        *options,
        *(
            str(choice)
            for action in _list_shown(parser)
            if not action.option_strings
            for choice in action.choices or ()
        ),
    ]


def _list_shown(parser: argparse.ArgumentParser) -> list[argparse.Action]:
    """List the arguments without the earlier spellings that are still accepted."""
    return [action for action in parser._actions if action.help is not argparse.SUPPRESS]


def _takes_run(parser: argparse.ArgumentParser) -> bool:
    return any(RUN_METAVAR in str(action.metavar) and not action.option_strings for action in parser._actions)


def _format_fish(verbs: dict[str, argparse.ArgumentParser]) -> Iterator[str]:
    yield "# completion of blendsearch; in config.fish: blendsearch completion fish | source"
    yield "complete -c blendsearch -n __fish_use_subcommand -l version"
    for name, made in verbs.items():
        help = (made.description or "").replace("'", "")
        yield f"complete -c blendsearch -n __fish_use_subcommand -a {name} -d '{help}'"
        condition = f"-n '__fish_seen_subcommand_from {name}'"
        for option in _list_options(made):
            kind = f"-l {option[2:]}" if option.startswith("--") else f"-a {option}"
            yield f"complete -c blendsearch {condition} {kind}"
        if _takes_run(made):
            runs = "(ls (set -q BLENDSEARCH_RUNS; and echo $BLENDSEARCH_RUNS; or echo runs) 2>/dev/null)"
            yield f'complete -c blendsearch {condition} -a "latest {runs}"'
