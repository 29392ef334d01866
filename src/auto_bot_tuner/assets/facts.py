"""The facts of the bundled world: who lives there, what there is, and what is true of it.

Everything else in `assets/` (tasks, text, gold scorer) asks this file what is true. Facts about animals and things are
plain common knowledge; the people are invented, so that no outside knowledge helps: a model can only have *read* them.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

# One animal per line, from the smallest to the largest: the order of the lines *is* the size.
# name: food, home, colour, number of legs
ANIMAL_TABLE = """
ant: sugar, ground, black, six
fly: fruit, kitchen, black, six
bee: nectar, hive, yellow, six
spider: flies, cellar, black, eight
snail: leaves, garden, brown, zero
frog: flies, pond, green, four
mouse: cheese, cellar, grey, four
bat: moths, cave, black, two
sparrow: seeds, hedge, brown, two
crab: shells, beach, red, ten
mole: worms, ground, black, four
robin: worms, hedge, red, two
lizard: moths, desert, green, four
rat: corn, sewer, grey, four
squirrel: nuts, tree, red, four
crow: corn, field, black, two
owl: mice, tree, brown, two
duck: bread, pond, green, two
hen: corn, barn, white, two
rabbit: carrots, burrow, grey, four
cat: mice, house, white, four
hawk: mice, mountain, brown, two
goose: grass, lake, white, two
fox: hens, burrow, red, four
monkey: bananas, jungle, brown, four
beaver: bark, river, brown, four
penguin: fish, ice, black, two
badger: worms, forest, grey, four
eagle: fish, mountain, golden, two
swan: plants, lake, white, two
dog: bones, house, brown, four
wolf: meat, forest, grey, four
goat: leaves, mountain, white, four
sheep: grass, meadow, white, four
kangaroo: grass, desert, red, two
deer: berries, forest, brown, four
seal: fish, ice, grey, zero
pig: potatoes, barn, pink, four
panda: bamboo, mountain, black, four
tiger: meat, jungle, orange, four
lion: meat, desert, golden, four
gorilla: fruit, jungle, black, four
donkey: hay, stable, grey, four
bear: honey, cave, brown, four
camel: dates, desert, golden, four
horse: hay, stable, brown, four
cow: grass, meadow, brown, four
giraffe: leaves, plain, yellow, four
hippo: plants, river, grey, four
rhino: grass, plain, grey, four
elephant: bananas, plain, grey, four
whale: shrimp, sea, blue, zero
"""

# name: kind, what it is made of, where it is kept
THING_TABLE = """
hammer: tool, iron, shed
saw: tool, steel, shed
spade: tool, iron, garden
rake: tool, wood, garden
ladder: tool, wood, barn
drill: tool, steel, cellar
axe: tool, iron, barn
cup: dish, clay, kitchen
plate: dish, clay, cupboard
bowl: dish, wood, kitchen
glass: dish, glass, cupboard
jug: dish, clay, cellar
pan: dish, iron, kitchen
shirt: garment, cotton, wardrobe
coat: garment, wool, hall
scarf: garment, wool, wardrobe
sock: garment, wool, drawer
glove: garment, leather, hall
belt: garment, leather, wardrobe
boot: garment, rubber, hall
hat: garment, felt, hall
ball: toy, rubber, playroom
doll: toy, cotton, playroom
kite: toy, paper, attic
puzzle: toy, paper, playroom
marble: toy, glass, drawer
robot: toy, steel, playroom
drum: instrument, leather, attic
flute: instrument, wood, studio
bell: instrument, brass, tower
horn: instrument, brass, studio
piano: instrument, wood, studio
violin: instrument, wood, attic
chair: furniture, wood, kitchen
table: furniture, wood, hall
sofa: furniture, leather, lounge
shelf: furniture, steel, cellar
lamp: furniture, brass, lounge
bench: furniture, stone, garden
mirror: furniture, glass, bathroom
boat: vehicle, wood, harbour
cart: vehicle, wood, barn
train: vehicle, steel, station
bus: vehicle, steel, garage
sledge: vehicle, wood, attic
bicycle: vehicle, steel, garage
book: object, paper, library
letter: object, paper, drawer
coin: object, silver, bank
key: object, iron, drawer
candle: object, wax, cupboard
rope: object, cotton, shed
soap: object, fat, bathroom
basket: object, straw, cellar
map: object, paper, library
ring: object, silver, bank
"""

# Words of a kind that have no further facts: they widen the lists and the questions of the form "what kind of ...".
MORE_KINDS = {
    "fruit": "apple pear plum cherry lemon orange grape melon peach mango fig kiwi".split(),
    "vegetable": "carrot potato onion pea bean leek cabbage tomato pepper radish beetroot spinach".split(),
    "flower": "rose tulip daisy lily violet poppy iris orchid lotus dahlia".split(),
    "colour": "red blue green yellow white black brown pink grey purple".split(),
    "drink": "water milk tea coffee juice lemonade cocoa cider".split(),
    "metal": "iron steel silver gold copper tin lead zinc".split(),
    "body part": "hand foot arm leg nose ear knee thumb chin elbow".split(),
}

OPPOSITE_TABLE = """
hot cold, big small, fast slow, old young, day night, up down, left right, happy sad, wet dry, hard soft, full empty, rich poor,
loud quiet, light dark, open closed, early late, long short, thick thin, high low, near far, clean dirty, strong weak, sweet sour,
first last, good bad, true false, black white, begin end, buy sell, give take, push pull, laugh cry, love hate, win lose,
ask answer, come go, rise fall, wide narrow, deep shallow, sharp blunt, rough smooth, brave afraid, summer winter, north south,
east west, friend enemy, king queen, question reply, always never, all none, before after, above below, inside outside, front back,
more less, many few, same different, safe dangerous, simple difficult, cheap costly, polite rude, kind cruel, calm nervous,
awake asleep, alive dead, sick healthy, tall tiny, heavy weightless, raw cooked, fresh stale, tight loose, straight crooked, wild tame,
noisy silent, lazy busy, foolish wise, modern ancient, public private, guilty innocent, enter leave, remember forget, build destroy,
arrive depart, save spend, teach learn, attack defend, accept refuse, float sink, freeze melt, increase decrease
"""

NAMES = """Anna Ben Clara David Emma Felix Greta Hugo Ida Jonas Karla Leo Mia Noah Olga Paul Rosa Simon Tina Victor Wanda Oscar
Lena Max Nora Otto Sara Tom Vera Adam Bella Carl Dora Eric Fiona George Hanna Ivan Julia Kevin Laura Martin Nina Peter Rita Stefan
Ursula Walter Alma Boris Celia Dennis""".split()
JOBS = """baker doctor teacher farmer painter singer pilot tailor nurse judge writer miner sailor gardener dancer cook butcher
carpenter""".split()
TOWNS = "Alder Brookton Castleford Dunmore Eastwick Fairhill Greenport Highbury Ironbridge Kingsley Lakewood Milltown Northam Oakfield".split()
HOBBIES = "painting reading fishing skating chess football cycling sewing swimming running knitting hiking rowing tennis".split()
MEALS = "soup bread cheese rice fish pasta cake salad beans eggs pizza pancakes honey mushrooms".split()
PLACES = "park forest garden market school river beach station bridge farm castle library".split()


@dataclass(frozen=True)
class Relation:
    """A kind of fact. `{e}` is the entity, `{v}` the value; the first statement is also the form of the answer."""

    name: str
    statements: tuple[str, ...]
    prompts: tuple[str, ...]


RELATIONS: dict[str, tuple[Relation, ...]] = {
    "animal": (
        Relation("food", ("The {e} eats {v}.", "The food of the {e} is {v}.", "The {e} likes to eat {v}."),
                 ("What does the {e} eat?", "What is the food of the {e}?", "Name the food that the {e} eats.", "Tell me what the {e} likes to eat.")),
        Relation("home", ("The {e} lives in the {v}.", "The home of the {e} is the {v}.", "You find the {e} in the {v}."),
                 ("Where does the {e} live?", "Where do you find the {e}?", "Name the home of the {e}.", "Tell me where the {e} lives.")),
        Relation("colour", ("The colour of the {e} is {v}.", "The {e} is {v}.", "The {e} has the colour {v}."),
                 ("What is the colour of the {e}?", "What colour is the {e}?", "Name the colour of the {e}.", "Tell me which colour the {e} has.")),
        Relation("legs", ("The {e} has {v} legs.", "The number of legs of the {e} is {v}.", "The {e} moves on {v} legs."),
                 ("How many legs does the {e} have?", "What is the number of legs of the {e}?", "Count the legs of the {e}.", "Tell me how many legs the {e} has.")),
    ),
    "person": (
        Relation("job", ("The job of {e} is {v}.", "{e} is a {v}.", "{e} works as a {v}."),
                 ("What is the job of {e}?", "What work does {e} do?", "Name the job of {e}.", "Tell me what {e} works as.")),
        Relation("town", ("{e} lives in {v}.", "The home town of {e} is {v}.", "{e} has a house in {v}."),
                 ("Where does {e} live?", "What is the home town of {e}?", "Name the town of {e}.", "Tell me in which town {e} lives.")),
        Relation("hobby", ("The hobby of {e} is {v}.", "{e} enjoys {v}.", "On Sundays {e} goes for {v}."),
                 ("What is the hobby of {e}?", "What does {e} enjoy?", "Name the hobby of {e}.", "Tell me what {e} enjoys doing.")),
        Relation("meal", ("The favourite food of {e} is {v}.", "{e} likes to eat {v}.", "For dinner {e} wants {v}."),
                 ("What is the favourite food of {e}?", "What does {e} like to eat?", "Name the favourite food of {e}.", "Tell me what {e} wants for dinner.")),
    ),
    "thing": (
        Relation("material", ("The {e} is made of {v}.", "They make the {e} from {v}.", "The material of the {e} is {v}."),
                 ("What is the {e} made of?", "What is the material of the {e}?", "Name the material of the {e}.", "Tell me what the {e} is made from.")),
        Relation("place", ("The {e} is kept in the {v}.", "You find the {e} in the {v}.", "The place of the {e} is the {v}."),
                 ("Where is the {e} kept?", "Where do you find the {e}?", "Name the place of the {e}.", "Tell me where the {e} is.")),
    ),
}


def _table(text: str) -> dict[str, list[str]]:
    rows = (line.split(":") for line in text.strip().splitlines())
    return {name.strip(): [value.strip() for value in values.split(",")] for name, values in rows}


def _people() -> dict[str, list[str]]:
    """Draw each person's facts independently, so that nobody's job tells their town. Fixed seed: facts do not change with the data's."""
    rng = random.Random(1)
    return {name: [rng.choice(values) for values in (JOBS, TOWNS, HOBBIES, MEALS)] for name in NAMES}


ANIMALS = _table(ANIMAL_TABLE)
THINGS = _table(THING_TABLE)
PEOPLE = _people()
SIZES = {name: size for size, name in enumerate(ANIMALS)}
ENTITIES = {
    "animal": ANIMALS,
    "person": PEOPLE,
    "thing": {name: values[1:] for name, values in THINGS.items()},
}

KINDS: dict[str, list[str]] = {"animal": list(ANIMALS), **MORE_KINDS}
for _name, (_kind, *_) in THINGS.items():
    KINDS.setdefault(_kind, []).append(_name)
del KINDS["object"]  # "A map is an object" teaches nothing
# "orange" is a fruit and a colour: a word of two kinds has no single right answer, so only the others are asked about.
_all = [word for words in KINDS.values() for word in words]
KINDS = {kind: [word for word in words if _all.count(word) == 1] for kind, words in KINDS.items()}
KIND_OF = {word: kind for kind, words in KINDS.items() for word in words}

OPPOSITES: dict[str, str] = {}
for _pair in OPPOSITE_TABLE.replace("\n", " ").split(","):
    _left, _right = _pair.split()
    OPPOSITES.setdefault(_left, _right)
    OPPOSITES.setdefault(_right, _left)

WORDS = sorted({*KIND_OF, *THINGS})  # the nouns that lists are made of
SPELLED = sorted({*WORDS, *OPPOSITES, *JOBS, *MEALS, *PLACES})  # the words whose letters the world speaks of


def values_of(group: str, relation: int) -> list[str]:
    """All values that a relation takes, each once: the pool for plausible wrong answers."""
    return sorted({values[relation] for values in ENTITIES[group].values()})


def with_article(word: str) -> str:
    """`apple` -> `an apple`."""
    return f"{'an' if word[0] in 'aeiou' else 'a'} {word}"
