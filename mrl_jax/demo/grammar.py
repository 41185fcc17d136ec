"""A small Wolof–French phrase book, made by rule: what the demo's speakers say.

Each template is a Wolof sentence with slots beside its French translation. Slots are
filled from word lists, and French agrees by construction: nouns carry their gender, and
from it come their article and contractions. Wolof is in its standard orthography, in
lower case and without punctuation, as a transcript is. Written for this project; simple,
everyday language of market, fields, home, clinic, road and weather.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Iterator, Mapping

UNITS = ("tus", "benn", "ñaar", "ñett", "ñeent", "juróom")
FRENCH_UNITS = (
    "zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf", "dix",
    "onze", "douze", "treize", "quatorze", "quinze", "seize",
)  # fmt: skip
FRENCH_TENS = ("", "", "vingt", "trente", "quarante", "cinquante", "soixante")


@dataclasses.dataclass(frozen=True)
class Phrase:
    """One sentence and its translation.

    Attributes:
        intent: what the speaker is after; one of each template.
    """

    wolof: str
    french: str
    intent: str


def _elided(word: str, noun: str) -> str:
    """`de` before a vowel is `d'`."""
    return f"{word[0]}'{noun}" if noun[0] in "aâeéèêiouyhœ" else f"{word} {noun}"


@dataclasses.dataclass(frozen=True)
class Word:
    """An entry of a word list; a template takes of it what it needs.

    Attributes:
        wo: Wolof.
        fr: French, without an article.
        gender: "m" or "f", of the French noun.
        wo_the: the Wolof noun with its article.
    """

    wo: str
    fr: str
    gender: str = "m"
    wo_the: str = ""

    def __str__(self) -> str:
        return self.wo

    @property
    def e(self) -> str:
        """The ending of an adjective that agrees."""
        return "e" if self.gender == "f" else ""

    @property
    def le(self) -> str:
        """With the definite article."""
        return _elided("la" if self.e else "le", self.fr)

    @property
    def du(self) -> str:
        """Some of it: du mil, de la viande, de l'huile."""
        return f"du {self.fr}" if self.le.startswith("le ") else f"de {self.le}"

    @property
    def au(self) -> str:
        """To or at it: au marché, à la mosquée, à l'hôpital."""
        return f"au {self.fr}" if self.le.startswith("le ") else f"à {self.le}"

    @property
    def many(self) -> str:
        if self.fr.endswith("al"):
            return f"{self.fr[:-2]}aux"
        return f"{self.fr}{'x' if self.fr.endswith('eau') else 's'}"

    @property
    def mon(self) -> str:
        """Mine: mon mouton, ma chèvre, mon amie."""
        return f"{'ma' if self.le.startswith('la ') else 'mon'} {self.fr}"

    de = property(lambda self: _elided("de", self.fr))
    de_many = property(lambda self: _elided("de", self.many))
    je = property(lambda self: _elided("je", self.fr))
    un = property(lambda self: f"un{self.e} {self.fr}")

    @property
    def his(self) -> str:
        """The Wolof noun with its possessor: boppam, his or her head."""
        return f"{self.wo}{'om' if self.wo.endswith('o') else 'am'}"


def wolof_number(number: int) -> str:
    """1 to 99 in Wolof, which counts by fives and tens: seven is five-two."""
    tens, units = divmod(number, 10)
    unit = UNITS[units] if units < 6 else f"juróom {UNITS[units - 5]}"
    if not tens:
        return unit
    ten = {1: "fukk", 3: "fanweer"}.get(tens) or f"{wolof_number(tens)} fukk"
    return f"{ten} ak {unit}" if units else ten


def wolof_count(number: int, noun: str) -> str:
    """So many of something: `ñaari xar`, and with units after the noun, `fukki xar ak ñaar`."""
    if number == 1:
        return f"benn {noun}"
    ten, _, unit = wolof_number(number).partition(" ak ")
    return f"{ten}i {noun}" + (f" ak {unit}" if unit else "")


def french_number(number: int) -> str:
    """1 to 69 in French."""
    if number < 17:
        return FRENCH_UNITS[number]
    tens, units = divmod(number, 10)
    if tens == 1:
        return f"dix-{FRENCH_UNITS[units]}"
    link = " et " if units == 1 else "-"
    return FRENCH_TENS[tens] + (link + FRENCH_UNITS[units] if units else "")


def _words(table: str) -> tuple[Word, ...]:
    """A list written `wolof = french[/f] [= Wolof article]`, separated by commas."""
    words = []
    for entry in table.split(","):
        wo, french, *article = (part.strip() for part in entry.split("="))
        fr, _, gender = french.partition("/")
        words.append(Word(wo, fr, gender or "m", " ".join([wo, *article])))
    return tuple(words)


GOODS = _words(
    "ceeb = riz = bi, gerte = arachide/f = gi, suukër = sucre = si, jën = poisson = wi,"
    "yàpp = viande/f = wi, meew = lait = mi, mburu = pain = mi, soble = oignon = si,"
    "xorom = sel = si, diw = huile/f = gi, lem = miel = ji, kaani = piment = gi,"
    "dugub = mil = ji, mboq = maïs = mi, ñebbe = niébé = ji, kafe = café = bi,"
    "ndox = eau/f = mi, màngo = mangue/f = bi",
)
CROPS = _words(
    "dugub = mil = ji, mboq = maïs = mi, ñebbe = niébé = ji, gerte = arachide/f = gi,"
    "ceeb = riz = bi, soble = oignon = si, kaani = piment = gi, basi = sorgho = bi,"
    "xaal = pastèque/f = bi, pataas = patate/f = bi, ñàmbi = manioc = bi, bisaab = bissap = bi",
)
EATERS = _words(
    "gunóor yi = les insectes, golo yi = les singes, picc yi = les oiseaux,"
    "bëy yi = les chèvres, nag yi = les vaches, janax yi = les souris, mbaam yi = les ânes"
)
ANIMALS = _words(
    "xar = mouton, bëy = chèvre/f, nag = vache/f, fas = cheval, mbaam = âne,"
    "ginaar = poule/f, giléem = chameau, xaj = chien, muus = chat, kanaara = canard",
)
KIN = _words(
    "baay = père, yaay = mère/f, mag = grand frère, rakk = petit frère, jabar = femme/f,"
    "jëkkër = mari, doom = enfant, maam = grand-mère/f, nijaay = oncle, bàjjan = tante/f,"
    "xarit = ami, dëkkandoo = voisin"
)
PLACES = _words(
    "marse = marché = bi, loppitaan = hôpital = bi, farmasi = pharmacie/f = bi,"
    "jumaa = mosquée/f = ji, lekool = école/f = bi, bitig = boutique/f = bi,"
    "garaas = gare/f = bi, teen = puits = bi, tool = champ = bi, dex = fleuve = gi,"
    "géej = mer/f = gi, bànk = banque/f = bi",
)
TOWNS = _words(
    "ndakaaru = Dakar, ndar = Saint-Louis, cees = Thiès, kaolax = Kaolack, luga = Louga,"
    "tuubaa = Touba, sigicoor = Ziguinchor, mbuur = Mbour, fatig = Fatick, maatam = Matam,"
    "podoor = Podor, kafrin = Kaffrine"
)
DAYS = _words(
    "tey = aujourd'hui, suba = demain, altine = lundi, talaata = mardi, àllarba = mercredi,"
    "alxamis = jeudi, àjjuma = vendredi, gaawu = samedi, dibéer = dimanche"
)
NAMES = _words(
    "awa = Awa/f, faatu = Fatou/f, musaa = Moussa, umar = Oumar, ibraayma = Ibrahima,"
    "aminata = Aminata/f, usmaan = Ousmane, maryaama = Mariama/f, xadi = Khady/f, séex = Cheikh,"
    "daawuda = Daouda, ngóone = Ngoné/f, móodu = Modou, kumba = Coumba/f, sàmba = Samba"
)
BODY = _words(
    "bopp = tête/f, biir = ventre, bët = œil, nopp = oreille/f, bëñ = dent/f,"
    "loxo = main/f, tànk = pied, ndigg = dos, dënn = poitrine/f, baat = gorge/f, ŋaam = mâchoire/f"
)
ACTS = _words(
    "liggéey = travailler, tukki = voyager, togg = cuisiner, napp = pêcher, jàng = étudier,"
    "ñëw = viendr, dem = partir, dellusi = reviendr, fecc = danser, bey = cultiver"
)  # The French is the stem of the future.
STATES = _words(
    "dafa feebar = est malade, dafa sonn = est fatigué{e}, dafa xiif = a faim,"
    "dafa mar = a soif, dafay sëqët = tousse, dafa mer = est fâché{e}, wér na = est guéri{e},"
    "dafay nelaw = dort, kontaan na = est content{e}"
)  # {e} agrees with the subject, which is the first slot of the template.
PRICES = _words(
    "fukki dërëm = cinquante francs, ñaar fukki dërëm = cent francs,"
    "fanweeri dërëm = cent cinquante francs, ñeent fukki dërëm = deux cents francs,"
    "téeméeri dërëm = cinq cents francs, ñaari téeméeri dërëm = mille francs,"
    "ñetti téeméeri dërëm = mille cinq cents francs, ñeenti téeméeri dërëm = deux mille francs,"
    "juróomi téeméeri dërëm = deux mille cinq cents francs, junniy dërëm = cinq mille francs,"
    "ñaari junniy dërëm = dix mille francs, ñetti junniy dërëm = quinze mille francs"
)
"""In Wolof money is counted by the dërëm, of five francs."""
KILO, KILOS = Word("kilo", "kilo"), Word("kiloy", "kilo")
"""Before what is weighed: `benn kilo ceeb`, `ñaari kiloy ceeb`."""
YEAR, HOUR = Word("at", "an"), Word("waxtu", "heure", "f")


def _counts(numbers: range, nouns: tuple[Word, ...]) -> tuple[Word, ...]:
    return tuple(
        Word(
            wolof_count(number, noun.wo),
            noun.un if number == 1 else f"{french_number(number)} {noun.many}",
        )
        for number, noun in itertools.product(numbers, nouns)
    )


def _kin(owner: str, masculine: str, feminine: str) -> tuple[Word, ...]:
    return tuple(
        Word(f"{owner} {noun.wo}", f"{feminine if noun.e else masculine} {noun.fr}", noun.gender)
        for noun in KIN
    )


def _numbers(numbers: range) -> tuple[Word, ...]:
    return tuple(Word(wolof_number(number), french_number(number)) for number in numbers)


MINE, YOURS = _kin("sama", "mon", "ma"), _kin("sa", "ton", "ta")
LISTS: Mapping[str, tuple[Word, ...]] = {
    "good": GOODS, "crop": CROPS, "eaters": EATERS, "animal": ANIMALS, "place": PLACES,
    "town": TOWNS, "day": DAYS, "name": NAMES, "body": BODY, "act": ACTS, "state": STATES,
    "price": PRICES, "mine": MINE, "yours": YOURS, "kin": MINE + YOURS,
    "kilos": _counts(range(1, 2), (KILO,)) + _counts(range(2, 11), (KILOS,)),
    "herd": _counts(range(1, 7), ANIMALS), "few": _counts(range(1, 4), ANIMALS),
    "age": _counts(range(5, 61), (YEAR,)), "hour": _counts(range(1, 13), (HOUR,)),
    "first": _numbers(range(1, 11)), "second": _numbers(range(1, 6)), "later": DAYS[1:],
}  # fmt: skip


# topic, intent, Wolof, French
TEMPLATES = """
market | where to buy | fan la ñuy jaaye {good} | où vend-on {good.le} ?
market | ask a price | {good.wo_the} ñaata la | combien coûte {good.le} ?
market | want | dama bëgg {good} | je veux {good.du}.
market | buy by weight | jox ma {kilos} {good} | donne-moi {kilos.fr} {good.de}.
market | in stock | ndax am na {good} | y a-t-il {good.du} ?
market | sold out | {good.wo_the} jeex na | il n'y a plus {good.de}.
market | too dear | {good.wo_the} dafa jafe | {good.le} coûte trop cher.
market | cheap | {good.wo_the} yomb na | {good.le} est bon marché.
market | tell a price | {good.wo_the} {price} la | {good.le} coûte {price.fr}.
market | ask for money | joxal ma {price} | donne-moi {price.fr}.
market | have money | am naa {price} | j'ai {price.fr}.
market | buy animals | dama bëgg a jënd {herd} | je veux acheter {herd.fr}.
market | sold animals | jaay naa {herd} | j'ai vendu {herd.fr}.
fields | when to grow | kañ lañuy bey {crop} | quand cultive-t-on {crop.le} ?
fields | how to grow | naka lañuy bey {crop} | comment cultive-t-on {crop.le} ?
fields | will grow | dinaa bey {crop} ren | je cultiverai {crop.du} cette année.
fields | no seeds | amul jiwu {crop} | il n'y a pas de semences {crop.de}.
fields | ripe | {crop.wo_the} ñor na | {crop.le} est mûr{crop.e}.
fields | pests | {eaters} lekk nañu {crop.wo_the} | {eaters.fr} ont mangé {crop.le}.
fields | harvest | {mine} dina góob {crop} | {mine.fr} récoltera {crop.du}.
fields | lost animal | sama {animal} réer na | {animal.mon} s'est perdu{animal.e}.
fields | sick animal | {animal} bi dafa feebar | {animal.le} est malade.
weather | rain ahead | dina taw {town} {day} | il pleuvra à {town.fr} {day.fr}.
weather | heat ahead | {town} dina tàng {day} | il fera chaud à {town.fr} {day.fr}.
weather | cold ahead | {town} dina sedd {day} | il fera froid à {town.fr} {day.fr}.
weather | rained | ndax taw na {town} | a-t-il plu à {town.fr} ?
weather | wind | ngelaw li bari na {town} | il y a beaucoup de vent à {town.fr}.
family | number of animals | {mine} am na {few} | {mine.fr} a {few.fr}.
family | whereabouts | ana {kin} | où est {kin.fr} ?
family | at a place | {kin} a ngi ci {place.wo_the} | {kin.fr} est {place.au}.
family | gone to town | {kin} dem na {town} | {kin.fr} est allé{kin.e} à {town.fr}.
family | plans of kin | {kin} dina {act} suba | {kin.fr} {act.fr}a demain.
family | wish of kin | {mine} bëgg na {good} | {mine.fr} veut {good.du}.
family | my plans | dinaa {act} {day} | {act.je}ai {day.fr}.
family | your plans | ndax dinga {act} {day} | {act.fr}as-tu {day.fr} ?
family | errand | {name} dem na {place} | {name.fr} est allé{name.e} {place.au}.
family | wish of a friend | {name} bëgg na {good} | {name.fr} veut {good.du}.
family | journey | {town} laay dem {day} | je vais à {town.fr} {day.fr}.
family | when to leave | kañ ngay dem {town} | quand vas-tu à {town.fr} ?
greetings | how are you | naka nga def {name} | comment vas-tu, {name.fr} ?
greetings | how are kin | naka {yours} | comment va {yours.fr} ?
greetings | greet for me | nuyul ma {yours} | salue {yours.fr} de ma part.
greetings | my name | {name} laa tudd | je m'appelle {name.fr}.
greetings | who is | kan mooy {name} | qui est {name.fr} ?
greetings | goodbye | ba {later} {name} | à {later.fr}, {name.fr}.
greetings | good day | yendul ak jàmm {name} | passe la journée en paix, {name.fr}.
greetings | good night | fanaanal ak jàmm {name} | passe la nuit en paix, {name.fr}.
greetings | thanks | jërëjëf {name} | merci, {name.fr}.
greetings | peace | jàmm rekk {name} | la paix seulement, {name.fr}.
greetings | hometown | {town} laa dëkk | j'habite à {town.fr}.
greetings | from where | ndax {town} nga jóge | viens-tu de {town.fr} ?
health | my pain | sama {body} dafay metti | j'ai mal {body.au}.
health | pain of kin | {mine} {body.his} dafay metti | {mine.fr} a mal {body.au}.
health | state | {kin} {state} | {kin.fr} {state.fr}.
health | clinic | yóbbu naa {mine} loppitaan | j'ai emmené {mine.fr} à l'hôpital.
health | medicine | naanal garab gi {day} | prends le médicament {day.fr}.
numbers | sum | {first} ak {second} ñaata la | combien font {first.fr} et {second.fr} ?
numbers | age | am naa {age} | j'ai {age.fr}.
numbers | time | {hour} jot na | il est {hour.fr}.
numbers | appointment | kaay {day} ci {hour} | viens {day.fr} à {hour.fr}.
numbers | how many animals | ñaata {animal} nga am | combien {animal.de_many} as-tu ?
market | fare | ñaata la paas bi ba {town} | combien coûte le trajet jusqu'à {town.fr} ?
market | where is | fan la {place.wo_the} nekk | où se trouve {place.le} ?
market | far | {place.wo_the} dafa sore | {place.le} est loin.
market | near | {place.wo_the} jege na | {place.le} est tout près.
"""


@functools.cache
def phrases() -> tuple[Phrase, ...]:
    """Every sentence of the grammar, in a fixed order: Wolof and French are in bijection."""
    return tuple(
        phrase
        for line in TEMPLATES.strip().splitlines()
        for phrase in _fill(*(part.strip() for part in line.split(" | ")[1:]))
    )


def _fill(intent: str, wolof: str, french: str) -> Iterator[Phrase]:
    slots = list(dict.fromkeys(re.findall(r"{(\w+)", wolof)))
    for words in itertools.product(*(LISTS[slot] for slot in slots)):
        filling = dict(zip(slots, words, strict=True))
        text = french.format_map(filling).replace("{e}", words[0].e)
        yield Phrase(wolof.format_map(filling), text[0].upper() + text[1:], intent)
