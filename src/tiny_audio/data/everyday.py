"""Everyday English sentences from a small grammar, so that the quickstart needs no corpus.

Text is what the bundled pair writes: lower case words with apostrophes, numbers spelt out.
"""

import random
import zlib
from collections.abc import Iterator
from functools import cache
from importlib import resources

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
    "fifteen sixteen seventeen eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()

# Word lists of the grammar, by the name the patterns use. "|" separates entries of several words.
_LISTS = """
name: anna ben carla daniel emma frank grace henry isabel jack kate leo maria nathan olivia peter
 rachel sam tina victor wendy adam alice brian charlotte david elena fiona george hannah ivan julia
 kevin laura martin nina oscar paula robert sarah thomas ursula walter simon james john mary michael
 lucy edward helen philip ruth arthur margaret william elizabeth charles joseph susan karen linda
 steven eric diana omar fatima chen yuki priya ravi carlos miguel sofia lars ingrid pierre marie
family: mother father sister brother aunt uncle cousin grandmother grandfather daughter son wife
 husband nephew niece neighbour friend teacher doctor boss colleague landlord partner roommate
job: nurse baker farmer pilot lawyer engineer painter writer singer driver soldier sailor plumber
 carpenter dentist butcher waiter actor student professor manager scientist mechanic tailor judge
 policeman librarian photographer gardener electrician journalist captain secretary clerk guard
place: kitchen garden office school station airport hotel market library museum park beach church
 hospital restaurant theatre factory harbour bridge village castle river forest mountain valley lake
 farm bank bakery pharmacy garage cellar attic bedroom bathroom stadium prison palace island desert
 street corner square supermarket post|office bus|stop town|hall living|room parking|lot
 swimming|pool
city: london paris berlin new|york chicago boston madrid rome vienna dublin oxford sydney toronto
 moscow tokyo delhi cairo athens lisbon oslo san|francisco texas california florida seattle denver
 houston atlanta washington england france germany spain italy ireland scotland india china japan
 australia canada america africa europe russia egypt brazil mexico sweden norway
thing: table chair window door book letter newspaper pencil paper picture camera computer telephone
 radio television clock watch key lamp bottle cup plate knife fork spoon basket box bag suitcase
 coat hat shirt shoe umbrella blanket pillow mirror carpet curtain bicycle car train boat ticket map
 ring necklace wallet purse hammer nail rope ladder bucket brush broom candle matches soap towel toy
 ball guitar piano violin drum flag coin stamp envelope package battery engine wheel screen keyboard
 button machine printer bench fence gate roof wall floor ceiling chimney stove fridge oven kettle
 sink mattress
animal: dog cat horse cow sheep goat pig chicken duck goose rabbit mouse rat fox wolf bear lion
 tiger elephant monkey snake frog fish shark whale eagle owl crow sparrow bee ant spider butterfly
 donkey camel deer turtle pigeon parrot
food: bread butter cheese milk coffee tea soup rice pasta pizza salad apple banana orange lemon
 grape cherry peach potato tomato carrot onion garlic pepper salt sugar honey chocolate cake cookie
 pie ham bacon beef chicken fish egg yogurt juice water wine beer sandwich sausage mushroom cabbage
 bean pea strawberry pear plum walnut breakfast dinner lunch supper
adj: big small old new young good bad happy sad hot cold warm cool dry wet clean dirty heavy light
 dark bright quiet loud soft hard smooth rough rich poor strong weak fast slow early late long short
 tall wide narrow deep empty full cheap expensive beautiful ugly strange famous dangerous safe
 simple difficult easy broken wooden golden silver blue red green yellow black white brown grey
 purple pink angry tired hungry thirsty friendly lonely brave clever foolish lazy busy nervous proud
 gentle honest careful sudden secret perfect terrible wonderful ordinary modern ancient foreign
 local important useful useless comfortable pleasant serious funny curious sharp round square thin
 thick
noun: time way day year man woman child world life hand part eye week case point government company
 number group problem fact question answer reason idea story history law war peace power money price
 market business plan project report result change chance choice mistake accident success trouble
 danger fear hope love anger joy pain health illness medicine weather storm rain snow wind cloud sky
 sun moon star earth sea ocean coast shore wave stone sand metal gold iron wood glass leather cotton
 music song dance game match race team prize party wedding birthday holiday journey road path field
 hill tree leaf flower grass seed fruit root branch bird nest egg morning evening night winter
 summer spring autumn language word sentence page chapter poem play film crowd army king queen
 prince enemy stranger visitor guest customer member leader voice sound noise smell taste colour
 shape size weight length distance speed minute hour month century future past beginning end edge
 middle top bottom side front surface knowledge memory dream sleep thought opinion advice lesson
 example subject science art nature society culture religion justice freedom duty right interest
 purpose effort habit promise secret truth lie joke gift present surprise shadow fire smoke flame
 dust mud ice steam
verb: see find take bring keep leave buy sell carry move open close break fix build paint wash clean
 cook eat drink read write draw send give show tell ask answer call help meet visit follow watch
 hear touch hold drop throw catch pull push lift cut burn hide save lose win forget remember
 understand learn teach study choose change start finish stop need want like love hate fear trust
 believe blame
past: saw found took brought kept left bought sold carried moved opened closed broke fixed built
 painted washed cleaned cooked ate drank read wrote drew sent gave showed asked answered called
 helped met visited followed watched heard touched held dropped threw caught pulled pushed lifted
 cut burned hid saved lost won forgot remembered understood learned studied chose changed started
 finished stopped needed wanted liked loved hated feared trusted believed blamed noticed reached
 passed
move: went walked ran drove travelled came hurried moved returned sailed flew rode climbed wandered
adv: quickly slowly quietly loudly carefully suddenly finally really probably certainly perhaps
 always never often sometimes usually already again together alone outside inside upstairs
 downstairs yesterday today tonight tomorrow soon later early immediately gently happily sadly
 easily badly
prep: in near behind under above beside inside outside across|from next|to in|front|of
month: january february march april may june july august september october november december
weekday: monday tuesday wednesday thursday friday saturday sunday
weather: sunny cloudy rainy windy snowy foggy stormy warm cold hot freezing humid mild clear
suit: clubs hearts spades diamonds
rank: ace two three four five six seven eight nine ten jack queen king
unit: metres miles kilometres feet inches pounds dollars euros minutes hours days weeks months years
 litres grams degrees percent people pages steps points
wish: please could|you can|you would|you i|want|to|hear i'd|like|you|to let's you|should don't
 we|must we'll i|can't they|couldn't she|wouldn't he|didn't|want|to i|have|to
say: i|think|that he|said|that she|told|me|that they|believe|that we|heard|that it|seems|that
 i'm|sure|that i|don't|know|whether everyone|knows|that you|can|see|that i|suppose
pron: i you he she we they
wh: what where when why how who
device: lights radio television heating music alarm fan computer phone camera heater oven
room: kitchen bedroom hallway living|room bathroom garage office cellar
"""

_PATTERNS = """
the {adj} {animal} {past} the {thing} {prep} the {place}
the {job} {past} a {adj} {thing} {adv}
my {family} {past} the {thing} on {weekday} {daytime}
{name} and {name} {move} to the {place} {adv}
{name} {move} from {city} to {city} in {month}
{wish} {verb} the {adj} {thing}
{wish} {verb} the {noun} {prep} the {place}
turn {onoff} the {device} in the {room}
turn the {device} {onoff}
set {art} {timer} for {number} {unit}
wake me up at {clock}
the train to {city} leaves at {clock} from platform {small}
it is {clock}
today is {weekday} the {ordinal} of {month}
{name} was born on the {ordinal} of {month} {year}
my phone number is {digits}
the code is {digits}
{digits}
{number}
the answer is {number} not {number}
it costs {number} {unit}
about {number} {unit} {adv}
we need {small} {food}s and a {adj} {food}
i would like some {food} and {food} for {food}
would you like {food} with your {food}
the {weather} {noun} is expected in {city} {adv}
it will be {weather} in {city} on {weekday} with {number} degrees
is it {weather} in {city} {adv}
{wh} did {pron} {verb} the {thing}
{wh} is the {adj} {noun}
{wh} will the {family} of {name} {verb}
do you know {wh} {name} {past} the {noun}
have you seen my {adj} {thing}
where is the {place} please
how much is the {adj} {thing}
how far is it from the {place} to the {place}
{say} the {noun} of the {noun} is {adj}
{say} the {job} {past} the {noun}
{say} {name} {past} {art} {adj} {noun} {prep} the {place}
the {noun} was {adj} and the {noun} was {adj}
there is {art} {adj} {noun} in the {noun}
there was no {noun} in {city} that {year}
{pron} {past} the {noun} and {past} the {noun}
{pron} {past} {art} {adj} {thing} from the {job} in {city}
{pron} had {adv} {move2} the {noun}
if you {verb} the {thing} i'll {verb} the {noun}
when the {job} {past} the {animal} it was {adj}
because of the {noun} the {noun} of {city} was {adj}
no one {past} the {noun} like {name}
{name} is a {adj} {job} from {city}
mister {surname} and missus {surname} {past} the {noun}
call {name} {surname}
play some {adj} music by {name} {surname}
{rank} of {suit}
{rank} of {suit} and {rank} of {suit}
go {direction} {number} {unit}
take the {ordinal} {thing} on the {side}
{say} {number} {unit} is {adj}
chapter {number}
page {number} of {number}
yes {pron} {past} it
no thank you {name}
good {daytime} {name} how are you {adv}
stop
{rare}
{rare} {rare}
{rare} {rare} and {rare}
the {rare} {noun} {past} a {rare}
the word {rare} is {adj}
{rare} {prep} {rare}
{say} {rare} and {rare} {past} the {rare}
a {rare} of {rare} {noun}
{name} {past} {rare} {adv}
the {adj} {rare} was {rare}
{pron} {past} the {rare} {prep} the {rare}
"""

_INLINE = {
    "daytime": ["morning", "afternoon", "evening", "night"],
    "onoff": ["on", "off", "up", "down"],
    "art": ["a", "the", "another", "this", "that", "every", "his", "her", "our", "your"],
    "timer": ["timer", "alarm", "reminder"],
    "move2": ["seen", "forgotten", "known", "left", "lost", "taken", "written", "broken"],
    "direction": ["forward", "back", "left", "right", "north", "south", "east", "west", "straight"],
    "side": ["left", "right"],
    "surname": "smith jones brown taylor wilson davies evans johnson walker white green hall "
    "wood clarke hughes edwards harris lewis martin cooper ward morris miller parker bennet "
    "anderson carter mitchell roberts phillips campbell turner collins stewart morgan bell "
    "murphy bailey richardson cox howard brooks watson sanders price myers foster".split(),
}


def number_words(n: int) -> str:
    """The English words of 0 <= n < 1,000,000, no "and", no hyphens."""
    if n < 20:
        return ONES[n]
    if n < 100:
        return TENS[n // 10 - 2] + ("" if n % 10 == 0 else " " + ONES[n % 10])
    base, name = (100, "hundred") if n < 1000 else (1000, "thousand")
    rest = "" if n % base == 0 else " " + number_words(n % base)
    return f"{number_words(n // base)} {name}{rest}"


def ordinal_words(n: int) -> str:
    """The English ordinal of 1 <= n < 100 in words."""
    irregular = {
        "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth",
        "nine": "ninth", "twelve": "twelfth",
    }  # fmt: skip
    head, _, last = number_words(n).rpartition(" ")
    if last in irregular:
        last = irregular[last]
    else:
        last = last[:-1] + "ieth" if last.endswith("y") else last + "th"
    return f"{head} {last}".strip()


@cache
def _lists() -> dict[str, list[str]]:
    lists: dict[str, list[str]] = dict(_INLINE)
    for entry in _LISTS.replace("\n ", " ").strip().splitlines():
        name, _, words = entry.partition(":")
        lists[name] = [word.replace("|", " ") for word in words.split()]
    words = resources.files("tiny_audio").joinpath("assets/nano/words.txt").read_text("utf-8")
    lists["rare"] = words.split()
    return lists


@cache
def _patterns() -> list[str]:
    return _PATTERNS.strip().splitlines()


def _slot(name: str, rng: random.Random) -> str:
    if name == "number":
        return number_words(int(10 ** rng.uniform(0, 4.3)))
    if name == "small":
        return number_words(rng.randint(2, 24))
    if name == "ordinal":
        return ordinal_words(rng.randint(1, 31))
    if name == "digits":
        return " ".join(rng.choice(ONES[:10]) for _ in range(rng.randint(1, 7)))
    if name == "year":
        century = number_words(rng.randint(15, 20))
        return f"{century} {number_words(rng.randint(10, 99))}"
    if name == "clock":
        hour = number_words(rng.randint(1, 12))
        minute = rng.choice(["o'clock", "fifteen", "thirty", "forty five", "oh five", ""])
        return f"{hour} {minute}".strip()
    return rng.choice(_lists()[name])


def _sentence(rng: random.Random) -> str:
    words = []
    for word in rng.choice(_patterns()).split():
        head, brace, tail = word.partition("{")
        slot, _, after = tail.partition("}")
        words.append(head + _slot(slot, rng) + after if brace else word)
    return " ".join(words)


def is_test_text(text: str) -> bool:
    """Whether a sentence belongs to the held-out tenth (by its hash, so for ever)."""
    return zlib.crc32(text.encode()) % 10 == 0


def sentences(seed: int, split: str = "train") -> Iterator[str]:
    """Endless everyday sentences of one split, "train" or "test"; deterministic in `seed`."""
    rng = random.Random(f"{split}-{seed}")
    while True:
        text = _sentence(rng)
        if is_test_text(text) == (split == "test"):
            yield text
