"""Captions of emoji: Unicode's name, and paraphrases of it by rule.

A person does not ask for "man firefighter: dark skin tone" but for "a dark-skinned male firefighter". Rules take a name
apart and say it again; tables hold everyday words for Unicode's. Everything is lower case and ASCII, and numbers are
written as words, for a vocabulary of letters must tell keycaps apart.
"""

from __future__ import annotations

import re
import unicodedata

from nextset.data.emoji_attributes import coloured, person
from nextset.data.emoji_list import Glyph

MOST = 6
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_ORDINALS = {"1st": "first", "2nd": "second", "3rd": "third"}


def _table(text: str) -> dict[str, str]:
    return dict(entry.strip().split(": ") for entry in text.split(";"))


# the kind of thing, by the beginning of the subgroup; the first that fits
_KINDS = _table("""
    face-costume: character; face-: smiley; cat-face: cat smiley; monkey-face: monkey; heart: heart;
    hand: hand; body-parts: body part; family: couple or family; animal-bird: bird; animal-bug: insect;
    animal: animal; plant-flower: flower; plant: plant; food-fruit: fruit; food-vegetable: vegetable;
    food-sweet: sweet; food: food; drink: drink; place-building: building; place: place; transport-sign: sign;
    transport-water: boat; transport-air: flying; transport: vehicle; time: clock; sky: weather; event: party;
    award: medal; sport: sport; game: game; clothing: clothes; musical: instrument; music: music; phone: phone;
    computer: computer; book: paper; money: money; mail: mail; writing: pen; office: office; tool: tool;
    science: science; medical: medicine; household: household; warning: sign; arrow: arrow; religion: symbol;
    zodiac: star sign; av-symbol: button; math: sign; punctuation: sign; other-symbol: symbol;
    alphanum: button; keycap: button; geometric: shape
""")
# everyday words for Unicode's, as whole words anywhere in a name; the first that fits
_SYNONYMS = _table("""
    automobile: car; airplane: plane; locomotive: steam train; articulated lorry: truck; bicycle: bike;
    motorcycle: motorbike; sailboat: sailing boat; passenger ship: cruise ship; flying saucer: ufo;
    fire engine: fire truck; aerial tramway: cable car; metro: subway; steaming bowl: bowl of noodles;
    hot beverage: cup of coffee; doughnut: donut; hamburger: burger; french fries: fries;
    soft ice cream: ice cream cone; shaved ice: snow cone; cooked rice: bowl of rice;
    cooking: fried egg in a pan; beer mug: glass of beer; wine glass: glass of wine; eggplant: aubergine;
    tangerine: mandarin orange; ear of corn: corn; hot pepper: chili; poultry leg: chicken leg;
    spaghetti: pasta; baguette bread: baguette; cocktail glass: martini; clinking beer mugs: cheers;
    pile of poo: poop; robot: robot face; alien monster: space invader; hundred points: hundred;
    face with tears of joy: laughing crying face; enraged face: red angry face;
    loudly crying face: sobbing face; smiling face with sunglasses: cool face; face savoring food: yummy face;
    partying face: party face; nauseated face: sick green face; exploding head: mind blown;
    face vomiting: throwing up face; smiling face with heart-eyes: face in love; thinking face: wondering face;
    sleeping face: face asleep; lady beetle: ladybug; honeybee: bee; sauropod: dinosaur; t-rex: tyrannosaurus;
    ox: bull; hippopotamus: hippo; rhinoceros: rhino; monkey face: face of a monkey;
    spouting whale: whale with water; blowfish: puffer fish; evergreen tree: pine tree; deciduous tree: tree;
    potted plant: plant in a pot; four leaf clover: lucky clover; collision: explosion;
    high voltage: lightning bolt; droplet: water drop; water wave: wave of the sea;
    globe showing europe-africa: earth; globe showing americas: planet earth; television: tv;
    mobile phone: smartphone; laptop: notebook computer; desktop computer: computer; light bulb: lamp;
    flashlight: torch; pill: medicine pill; gem stone: diamond gem; necktie: tie; soccer ball: football;
    game die: dice; trophy: winner cup; wrapped gift: present; jack-o-lantern: halloween pumpkin;
    water pistol: toy gun; video game: game controller; musical keyboard: piano; microphone: mic;
    wastebasket: trash can; check mark: tick; cross mark: red cross; prohibited: forbidden;
    police officer: cop; health worker: doctor; cook: chef; technologist: programmer; mage: wizard;
    construction worker: builder; detective: spy; supervillain: villain; thumbs up: like; thumbs down: dislike;
    folded hands: praying hands; oncoming fist: fist bump; flexed biceps: strong arm; waving hand: hello hand;
    victory hand: peace sign; litter in bin sign: trash sign
""")
_DEMONYMS = _table("""
    spain: spanish; france: french; germany: german; italy: italian; japan: japanese; china: chinese;
    brazil: brazilian; canada: canadian; mexico: mexican; india: indian; sweden: swedish; norway: norwegian;
    denmark: danish; finland: finnish; poland: polish; russia: russian; turkey: turkish; greece: greek;
    ireland: irish; portugal: portuguese; austria: austrian; switzerland: swiss; belgium: belgian;
    netherlands: dutch; ukraine: ukrainian; egypt: egyptian; australia: australian; argentina: argentinian;
    south korea: korean; united states: american; united kingdom: british; england: english;
    scotland: scottish; wales: welsh
""")
_ADJECTIVES = {"man": "male", "woman": "female"}
_NOT_JOBS = ("in", "with", "wearing", "feeding")
_SAID_BY_NAME = ("adult", "old", "child", "royal", "claus", "deaf", "pregnant", "merperson")
_PLURAL = ("", "no", "people", "men", "women", "two", "the", "palms", "children")
_SINGULAR = ("person", "man", "woman", "deaf", "male", "female")


def plain(text: str) -> str:
    """Lower case ASCII with straight quotes, numbers as words and no brackets."""
    text = text.lower().replace("\u2019", "'").replace("&", "and").translate({ord(c): None for c in "\u201c\u201d()!"})
    text = text.replace("keycap: #", "keycap: hash").replace("keycap: *", "keycap: asterisk")
    text = "".join(c for c in unicodedata.normalize("NFKD", text) if c.isascii())
    text = re.sub(r"\b(1st|2nd|3rd)\b", lambda m: _ORDINALS[m[1]], text)
    return re.sub(r"\b(\d|10)\b", lambda m: _NUMBERS[int(m[1])], text)


def phrases(glyph: Glyph) -> list[str]:
    """Unicode's name, and two to six other ways to say it; no two are the same."""
    name = plain(glyph.name)
    if shown := coloured(glyph):
        said = _shape(*shown)
    elif shown := person(glyph):
        said = _person(glyph, *shown)
    elif name.startswith("flag: "):
        said = _flag(name.removeprefix("flag: "))
    elif glyph.tones:
        said = _toned(name, glyph.tones)
    else:
        said = _thing(name, glyph)
    return list(dict.fromkeys([name, *said]))[: MOST + 1]


def _shape(colour: str, shape: str) -> list[str]:
    thing = plain(shape)
    return [a(f"{colour} {thing}"), f"{thing} in {colour}", f"{thing}, {colour}", f"a {thing} of {colour} colour"]


def _flag(place: str) -> list[str]:
    people = [f"{_DEMONYMS[place]} flag", f"the {_DEMONYMS[place]} flag"] if place in _DEMONYMS else []
    return [f"flag of {place}", f"the flag of {place}", f"{place} flag", *people]


def _toned(name: str, tones: tuple[str, ...]) -> list[str]:
    thing = ", ".join(part.strip() for part in re.split("[:,]", name) if "skin tone" not in part)
    tone = " and ".join(tones)
    return [
        f"{a(thing)} with {tone} skin",
        a(f"{tone}-skinned {thing}"),
        f"{thing}, {tone} skin",
        f"{thing} with {tone} skin",
    ]


def _person(glyph: Glyph, gender: str, role: str) -> list[str]:
    noun = _noun(glyph, gender, role)
    tone = "".join(glyph.tones[:1])
    if not tone:
        return [a(noun), f"{role}, {gender}", f"emoji of {a(noun)}", f"person: {noun}", *_doing(gender, role)]
    joined = "and" if " with " in noun else "with"
    return [
        f"{a(noun)} {joined} {tone} skin",
        a(f"{tone}-skinned {noun}"),
        f"{role}, {gender}, {tone} skin",
        f"{noun} {joined} {tone} skin",
        *(f"{said}, {tone} skin" for said in _doing(gender, role)),
    ]


def _noun(glyph: Glyph, gender: str, role: str) -> str:
    """Who it is in words: "male firefighter", "woman running", "deaf man", "man with red hair"."""
    head = plain(glyph.name).partition(":")[0]
    if role == "bald":
        return f"bald {gender}"
    if role == "beard" or role.endswith(" hair"):
        return f"{gender} with {'a beard' if role == 'beard' else role}"
    # what somebody is, not what somebody does or wears
    job = glyph.subgroup in ("person-role", "person-fantasy") and role.split()[0] not in _NOT_JOBS
    if job and role not in _SAID_BY_NAME and gender in _ADJECTIVES:
        return f"{_ADJECTIVES[gender]} {role}"
    return head


def _doing(gender: str, role: str) -> list[str]:
    """The person behind what they do ("running man"), and an everyday word for a job ("male chef")."""
    said = [f"{role} {gender}"] if role.endswith("ing") and " " not in role else []
    known = _SYNONYMS.get(role)
    return [*said, f"{_ADJECTIVES.get(gender, '')} {known}".strip()] if known else said


def _thing(name: str, glyph: Glyph) -> list[str]:
    kind = next((kind for start, kind in _KINDS.items() if glyph.subgroup.startswith(start)), "thing")
    thing = name.replace("family: ", "family of ").replace(": ", " ")
    known = next((word for word in _SYNONYMS if re.search(rf"\b{re.escape(word)}\b", thing)), "")
    other = re.sub(rf"\b{re.escape(known)}\b", _SYNONYMS[known], thing) if known else ""
    return [a(thing), *([a(other), other] if other else []), f"emoji of {a(thing)}", f"{kind}: {thing}"]


def a(thing: str) -> str:
    """With an article, where the noun looks like one that takes it."""
    head = re.split(r" (?:with|of|in|on|from|behind|to|showing|for|without|at|over)\b|[,:]", thing)[0]
    several = head.endswith("s") and not head.endswith(("ss", "us", "is", "os"))
    first = head.split()[0] if head else ""
    if first in _PLURAL or (several and first not in _SINGULAR):
        return thing
    return f"{'an' if head[0] in 'aeiou' and not head.startswith(('uni', 'one', 'eu')) else 'a'} {thing}"
