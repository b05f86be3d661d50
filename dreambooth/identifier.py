"""List words that are rare to a model, for use as an identifier.

    python -m dreambooth.identifier --model ./my_model
    python -m dreambooth.identifier --model ./my_model --check "a photo of sks dog"

They are chosen as the DreamBooth paper does: one token of the model's own tokenizer, rare, three or fewer letters,
drawn at random from all such tokens; another --seed draws others.
"""

from dreambooth.config.parser import Parser
from dreambooth.data.rare_words import RareWords
from dreambooth.files import weight_files
from dreambooth.models import loading, pipeline_folder
from dreambooth.system import console, libraries, randomness
from dreambooth.system.errors import BadInput


def read_arguments(argv):
    parser = Parser(prog="python -m dreambooth.identifier", description=__doc__)
    add = parser.add_argument
    add("--model", required=True, metavar="TEXT", help="a pipeline's folder or name")
    add("--count", type=int, default=20, metavar="N", help="how many to list (default: 20)")
    add("--seed", type=int, default=0, metavar="N", help="which to draw of all there are (default: 0)")
    add("--all", action="store_true", help="list all, the rarest first, instead of some")
    add("--check", metavar="TEXT", help="look at this prompt instead: is its identifier rare, is its class named")
    add("--verbose", action="store_true", help="show the libraries' own messages too")
    arguments = parser.parse_args(argv)
    for name, least in (("count", 1), ("seed", 0)):
        if getattr(arguments, name) < least:
            raise BadInput(f"--{name} {getattr(arguments, name)}: must be at least {least}")
    pipeline_folder.check(arguments.model, flag="--model")
    return arguments


def main(argv):
    arguments = read_arguments(argv)
    libraries.load(weight_files.READERS, arguments.verbose)
    known = RareWords(loading.load_tokenizer(loading.Source(arguments.model), "--model"))
    if arguments.check is not None:
        print("\n".join(known.problems(arguments.check)) or "nothing is wrong with it")
        return
    found = known.candidates()
    if not found:
        raise BadInput(f"--model {arguments.model}: its tokenizer has no rare word of up to three letters")
    shown = found if arguments.all else some(found, arguments.count, arguments.seed)
    for each in shown:
        print(f"{each.word}\ttoken {each.token}")
    if not arguments.all:
        print(f"{len(shown)} of {len(found)}; --all lists them all, --seed draws others")


def some(found, count, seed):
    """`count` of them, drawn at random without replacement, the rarest first."""
    order = randomness.stream(seed, "identifiers").permutation(len(found))[:count]
    return [found[index] for index in sorted(order)]


if __name__ == "__main__":
    console.run_command(main)
