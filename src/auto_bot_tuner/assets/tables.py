"""The tables of the bundled world, as a person would write them down. `facts.py` reads them.

Facts about animals and things are plain common knowledge, a little simplified: one food, one home, one colour each.
"""

from __future__ import annotations

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
MORE_KINDS_TABLE = """
fruit: apple, pear, plum, cherry, lemon, orange, grape, melon, peach, mango, fig, kiwi
vegetable: carrot, potato, onion, pea, bean, leek, cabbage, tomato, pepper, radish, beetroot, spinach
flower: rose, tulip, daisy, lily, violet, poppy, iris, orchid, lotus, dahlia
colour: red, blue, green, yellow, white, black, brown, pink, grey, purple
drink: water, milk, tea, coffee, juice, lemonade, cocoa, cider
metal: iron, steel, silver, gold, copper, tin, lead, zinc
body part: hand, foot, arm, leg, nose, ear, knee, thumb, chin, elbow
"""

OPPOSITE_TABLE = """
hot cold, big small, fast slow, old young, day night, up down, left right, happy sad, wet dry, hard soft, full
empty, rich poor, loud quiet, light dark, open closed, early late, long short, thick thin, high low, near far, clean
dirty, strong weak, sweet sour, first last, good bad, true false, black white, begin end, buy sell, give take, push
pull, laugh cry, love hate, win lose, ask answer, come go, rise fall, wide narrow, deep shallow, sharp blunt, rough
smooth, brave afraid, summer winter, north south, east west, friend enemy, king queen, question reply, always never,
all none, before after, above below, inside outside, front back, more less, many few, same different, safe
dangerous, simple difficult, cheap costly, polite rude, kind cruel, calm nervous, awake asleep, alive dead, sick
healthy, tall tiny, heavy weightless, raw cooked, fresh stale, tight loose, straight crooked, wild tame, noisy
silent, lazy busy, foolish wise, modern ancient, public private, guilty innocent, enter leave, remember forget,
build destroy, arrive depart, save spend, teach learn, attack defend, accept refuse, float sink, freeze melt,
increase decrease
"""

NAMES_TABLE = """
Anna Ben Clara David Emma Felix Greta Hugo Ida Jonas Karla Leo Mia Noah Olga Paul Rosa Simon Tina Victor Wanda Oscar
Lena Max Nora Otto Sara Tom Vera Adam Bella Carl Dora Eric Fiona George Hanna Ivan Julia Kevin Laura Martin Nina
Peter Rita Stefan Ursula Walter Alma Boris Celia Dennis
"""
JOBS_TABLE = """
baker doctor teacher farmer painter singer pilot tailor nurse judge writer miner sailor gardener dancer cook butcher
carpenter
"""
TOWNS_TABLE = """
Alder Brookton Castleford Dunmore Eastwick Fairhill Greenport Highbury Ironbridge Kingsley Lakewood Milltown Northam
Oakfield
"""
HOBBIES_TABLE = """
painting reading fishing skating chess football cycling sewing swimming running knitting hiking rowing tennis
"""
MEALS_TABLE = """
soup bread cheese rice fish pasta cake salad beans eggs pizza pancakes honey mushrooms
"""
PLACES_TABLE = """
park forest garden market school village valley harbour station farm castle library
"""
