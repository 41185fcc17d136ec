"""The demo's intents: which of them are evaluated, their French texts, and their sentences."""

import random
from collections.abc import Collection, Mapping

from mrl_jax.demo.grammar import Phrase, phrases

EVALUATED = tuple(
    """
where to buy; ask a price; want; buy by weight; tell a price; buy animals; sold animals;
pests; harvest; rain ahead; heat ahead; cold ahead; number of animals; whereabouts; at a
place; gone to town; plans of kin; wish of kin; my plans; your plans; errand; wish of a
friend; journey; goodbye; pain of kin; state; sum; age; appointment
""".replace("\n", " ")
    .strip()
    .split("; ")
)
"""The intents that are evaluated: no training may use their labels; those of the others it may.

They are the 29 with the most sentences, the earlier template first where two have as many, so
that each has sentences to learn from and others to be measured on.
"""

# Under each intent its name, then paraphrases: what somebody might say. None is the wording of
# a document.
_TEXTS = """
where to buy: où acheter
  Où vend-on du riz et du sucre ? / Le lait, où le vend-on ?
  Où est-ce qu'on vend de la viande ? / Où trouve-t-on du pain au marché ?
ask a price: demander le prix
  Combien coûte un kilo de mil ? / Le lait, combien coûte-t-il ?
  Combien de francs coûte le pain ? / La viande et le riz, combien ça coûte ?
want: vouloir quelque chose
  Moi, je veux du riz. / Je veux de la viande et du pain.
  C'est du lait que je veux. / Du sucre, j'en veux.
buy by weight: acheter au kilo
  Je veux deux kilos de riz. / Donne-moi trois ou quatre kilos.
  Je veux acheter un kilo de sucre. / Pas un kilo d'oignon, donne-moi dix kilos.
in stock: demander s'il y en a
  Est-ce qu'il y a du riz et du sucre ? / Y a-t-il du lait au marché ?
  Du pain, y en a-t-il ? / Il y a de la viande ?
sold out: il n'y en a plus
  Il n'y a plus de riz et plus de sucre. / On ne vend plus de lait.
  Du pain, il n'y en a plus. / Tout le poisson est vendu.
too dear: c'est trop cher
  La viande et le lait coûtent trop cher. / Le riz est cher, trop cher.
  Le pain, il coûte trop cher. / C'est trop cher, le miel.
cheap: bon marché
  La viande n'est pas chère, c'est bon marché. / L'oignon est bon marché cette année.
  Au marché, le mil ne coûte pas cher. / Le riz est à un bon prix.
tell a price: dire le prix
  Un kilo de riz coûte mille francs. / Le lait et le pain coûtent cent francs.
  Au marché, la viande coûte deux mille francs. / Le mil, il coûte cinq cents francs.
ask for money: demander de l'argent
  Donne-moi mille ou deux mille francs. / Je veux cent francs.
  Donne-moi des francs. / Il me faut de l'argent, donne-moi dix francs.
have money: avoir de l'argent
  Moi, j'ai mille francs. / J'ai cent francs et cinq cents francs.
  J'ai beaucoup de francs. / Des francs, j'en ai deux cents.
buy animals: acheter des animaux
  Je veux un cheval et deux ânes. / Je veux acheter un mouton au marché.
  On veut acheter des chèvres. / Je vais acheter deux ou trois vaches.
sold animals: avoir vendu des animaux
  J'ai vendu mon cheval. / J'ai vendu un mouton et deux chèvres.
  Au marché, on a vendu trois vaches. / Mon âne, je l'ai vendu.
when to grow: quand cultiver
  Le mil, quand le cultive-t-on ? / Quand est-ce qu'on cultive le maïs ?
  Quand cultive-t-on mon champ ? / On cultive quand, le riz et le sorgho ?
how to grow: comment cultiver
  Le mil, comment le cultive-t-on ? / Comment est-ce qu'on cultive le maïs ?
  Comment cultive-t-on mon champ ? / On cultive comment, le riz et le sorgho ?
will grow: ce que je cultiverai
  Cette année, je cultiverai mon champ. / Je cultiverai le mil et le maïs.
  Je ne cultiverai pas de riz cette année. / Cette année, c'est du manioc que je cultiverai.
no seeds: manquer de semences
  Il n'y a pas de semences au marché. / Des semences de mil, il n'y en a pas.
  On ne trouve pas de semences de riz. / Pas de semences de maïs cette année.
ripe: c'est mûr
  Le maïs et le mil sont mûrs. / Tout est mûr dans le champ.
  La pastèque est bonne, elle est mûre. / Il est mûr, le riz.
pests: des animaux ont mangé la récolte
  Les oiseaux ont tout mangé. / Le champ, les vaches l'ont mangé.
  Les chèvres ont mangé mon mil. / Les singes et les souris ont mangé du maïs.
harvest: qui récoltera
  Mon père et ma mère récolteront le champ. / Ma femme récoltera tout.
  Mon oncle récoltera son mil. / Du maïs, mon frère en récoltera beaucoup.
lost animal: un animal perdu
  Mon mouton et mon âne se sont perdus. / Ma vache, elle s'est perdue.
  Où est mon cheval ? Il s'est perdu. / J'ai perdu mon chien.
sick animal: un animal malade
  La vache et le cheval sont malades. / Mon mouton est malade.
  L'âne ne va pas bien, il est malade. / Le chien est fatigué et malade.
rain ahead: il pleuvra
  Demain, il pleuvra beaucoup. / Il pleuvra samedi et dimanche.
  À Dakar, lundi, il pleuvra. / Il ne fera pas chaud, il pleuvra à Touba.
heat ahead: il fera chaud
  Demain, il fera trop chaud. / Il fera chaud samedi et dimanche.
  À Dakar, lundi, il fera chaud. / Il ne fera pas froid, il fera chaud à Touba.
cold ahead: il fera froid
  Demain, il fera trop froid. / Il fera froid samedi et dimanche.
  À Dakar, lundi, il fera froid. / Il ne fera pas chaud, il fera froid à Touba.
rained: demander s'il a plu
  Est-ce qu'il a plu à Dakar ? / A-t-il plu en ville ?
  Il a plu à Thiès ou à Louga ? / A-t-il beaucoup plu à Matam ?
wind: il y a du vent
  Du vent, il y en a beaucoup à Dakar. / Il y a trop de vent à Thiès.
  Beaucoup de vent en ville. / À Louga et à Touba, il y a du vent.
number of animals: combien d'animaux a la famille
  Mon père a des vaches et des moutons. / Ma tante a beaucoup d'ânes.
  Mon voisin a un cheval et deux chèvres. / Ma femme a trop de poules.
whereabouts: demander où est quelqu'un
  Où est-il, mon frère ? / Ton ami, où est-il ?
  Où est-ce que se trouve ta mère ? / Où sont mon père et ma tante ?
at a place: être quelque part
  Mon frère est au champ ou au puits. / Ma mère est loin, elle est à la gare.
  Ton ami est tout près de la mosquée. / Mon enfant n'est pas à l'école.
gone to town: la famille est allée en ville
  Mon frère n'est pas là, il est allé à Dakar. / Ta tante et ton oncle sont allés à Thiès.
  Ma mère, elle est allée en ville. / C'est à Touba qu'est allé mon père.
plans of kin: ce que fera la famille demain
  Demain, mon frère partira. / Ma mère ne travaillera pas demain.
  Ton oncle voyagera et reviendra demain. / Mon père cultivera son champ demain.
wish of kin: ce que veut la famille
  Mon père veut du riz et du lait. / Ma mère ne veut pas de viande.
  C'est du pain que veut mon enfant. / Mon oncle, il veut du sucre.
my plans: ce que je ferai
  Dimanche, je travaillerai. / Je partirai lundi ou mardi.
  Je ne voyagerai pas demain. / Demain, j'étudierai et je danserai.
your plans: demander ce que tu feras
  Est-ce que tu travailleras demain ? / Dimanche, partiras-tu ?
  Voyageras-tu lundi ou mardi ? / Reviendras-tu ou cuisineras-tu samedi ?
errand: quelqu'un est allé quelque part
  Moussa n'est pas là, il est allé au marché. / Fatou est allée au puits et au champ.
  Awa et Samba sont allés à la gare. / Où est allé Modou ? À la banque.
wish of a friend: ce que veut quelqu'un
  Awa veut du riz et du lait. / Moussa ne veut pas de viande.
  C'est du pain que veut Fatou. / Samba, il veut du sucre.
journey: aller en voyage
  Demain, je vais en ville. / Dimanche, c'est à Dakar que je vais.
  Je vais à Thiès lundi et mardi. / Je ne vais pas à Louga jeudi, je vais à Touba.
when to leave: quand partir
  Quand vas-tu en ville ? / Dakar, quand y vas-tu ?
  Quand est-ce que tu vas à Thiès ? / Vas-tu à Touba lundi ou mardi ?
how are you: demander comment tu vas
  Awa, comment vas-tu ? / Comment vas-tu, mon ami ?
  Tu vas bien, Moussa ? / Et toi, Fatou, comment ça va ?
how are kin: comment va la famille
  Comment vont ton père et ta mère ? / Ton enfant, comment va-t-il ?
  Est-ce que ta femme va bien ? / Et ton frère, comment va-t-il ?
greet for me: saluer quelqu'un
  Salue ton père et ta mère. / De ma part, salue ta tante.
  Ton oncle, salue-le de ma part. / Salue tout le monde de ma part.
my name: dire mon nom
  Moi, je m'appelle Awa. / Je ne m'appelle pas Moussa.
  Mon nom est Fatou, je m'appelle Fatou. / C'est Modou que je m'appelle.
who is: demander qui c'est
  Awa, qui est-ce ? / Qui sont Moussa et Fatou ?
  Est-ce que c'est Samba ? Qui est-ce ? / Modou, qui est-il ?
goodbye: dire au revoir
  À lundi ou à mardi, Moussa. / Awa et Fatou, à demain.
  On se trouve dimanche, Samba. / À samedi, mon ami.
good day: souhaiter une bonne journée
  Bonne journée, Awa. / Moussa, passe une bonne journée.
  Passe la journée, Fatou, en paix. / En paix, Samba, passe la journée.
good night: souhaiter une bonne nuit
  Bonne nuit, Awa. / Moussa, passe une bonne nuit.
  Passe la nuit, Fatou, en paix. / En paix, Samba, passe la nuit.
thanks: dire merci
  Awa, merci. / Merci beaucoup, Moussa.
  Merci à Fatou et à Samba. / Merci pour tout, Modou.
peace: être en paix
  Awa, la paix. / En paix seulement, Moussa.
  Tout va bien, Fatou, la paix. / Samba, la paix, la paix.
hometown: dire où j'habite
  Moi, j'habite à Dakar. / J'habite à Thiès, pas à Louga.
  J'habite loin, à Matam. / C'est à Touba que j'habite.
from where: demander d'où tu viens
  Est-ce que tu viens de Dakar ? / Tu viens de Thiès ou de Louga ?
  Viens-tu de la ville ? / C'est de Touba que tu viens ?
my pain: dire où j'ai mal
  J'ai mal au ventre et à la tête. / J'ai trop mal au dos.
  Moi, j'ai mal à la main. / J'ai beaucoup mal au pied.
pain of kin: où la famille a mal
  Mon père a mal au dos et à la tête. / Ma mère a trop mal au ventre.
  Mon enfant, il a mal au pied. / Ma tante n'a pas mal à la main.
state: comment se sent la famille
  Mon père est fatigué ou malade. / Ta mère a faim et soif.
  Mon enfant est content, il est guéri. / Ton ami dort et tousse.
clinic: emmener quelqu'un à l'hôpital
  Mon père est à l'hôpital, je l'ai emmené. / J'ai emmené ma mère et mon enfant à l'hôpital.
  À l'hôpital, j'ai emmené mon ami. / Je l'ai emmené à l'hôpital, mon frère.
medicine: prendre un médicament
  Prends un médicament lundi et mardi. / Demain, prends ton médicament.
  Le médicament, prends-le dimanche. / Ne prends pas le médicament jeudi.
sum: combien ça fait
  Deux et deux, combien ça fait ? / Combien font dix et cinq et trois ?
  Un et quatre, ça font combien ? / Cinq et cinq font combien ?
age: dire mon âge
  Moi, j'ai vingt ans. / J'ai plus de trente ans.
  J'ai dix ans, pas onze ans. / Cette année, j'ai quarante ans.
time: dire l'heure
  Il est dix heures et cinq. / Il n'est pas deux heures, il est trois heures.
  À Dakar, il est une heure. / C'est l'heure, il est six heures.
appointment: donner rendez-vous
  Viens demain, à dix heures. / Viens lundi à une heure ou à deux heures.
  À trois heures, viens, pas à cinq heures. / Dimanche, viens à six heures.
how many animals: demander combien d'animaux tu as
  Des moutons, combien en as-tu ? / Combien as-tu de vaches ?
  As-tu deux ânes ou trois ? / Combien de chèvres et de poules as-tu ?
fare: le prix du trajet
  Combien coûte le trajet en ville ? / Le trajet jusqu'à la mer, c'est combien ?
  Combien de francs jusqu'à Dakar ? / De Thiès à Louga, combien coûte le trajet ?
where is: demander le chemin
  Où est-ce que se trouve le marché ? / La gare, où se trouve-t-elle ?
  Où se trouvent la mosquée et l'école ? / L'hôpital, c'est où ?
far: c'est loin
  L'école est trop loin. / La mer et le fleuve sont loin.
  C'est loin, le marché. / L'hôpital n'est pas tout près, il est loin.
near: c'est tout près
  L'école n'est pas loin, elle est tout près. / La mer et le fleuve sont tout près.
  C'est tout près, le marché. / L'hôpital est près.
"""


def _table(rows: str) -> dict[str, tuple[str, ...]]:
    texts: dict[str, tuple[str, ...]] = {}
    intent = ""
    for line in rows.strip().splitlines():
        if line.startswith(" "):
            texts[intent] += tuple(line.strip().split(" / "))
        else:
            intent, name = line.split(": ")
            texts[intent] = (name,)
    return texts


LABEL_TEXTS: Mapping[str, tuple[str, ...]] = _table(_TEXTS)
"""French texts of every intent: its name, as a person would put it, then paraphrases."""


def intent_sentences(
    trained: Collection[Phrase], *, shots: int, tests: int, seed: int
) -> dict[str, dict[str, list[Phrase]]]:
    """Sentences of the evaluated intents, by split ("train", to learn from, or "test") and intent.

    Sentences that no training uses come first, in the test split before the other, which takes
    sentences of the training where there are no others. No sentence is in both splits.

    Args:
        trained: sentences that some training uses.
        shots, tests: at most so many sentences of an intent in the two splits.
        seed: of the drawing.
    """
    rng = random.Random(f"intents {seed}")
    parts: dict[str, dict[str, list[Phrase]]] = {"train": {}, "test": {}}
    known = set(trained)
    for intent in EVALUATED:
        sentences = [phrase for phrase in phrases() if phrase.intent == intent]
        rng.shuffle(sentences)
        sentences.sort(key=lambda phrase: phrase in known)
        unseen = sum(phrase not in known for phrase in sentences)
        count = min(tests, max(unseen, 1), len(sentences) // 3)
        parts["test"][intent] = sentences[:count]
        parts["train"][intent] = sentences[count : count + shots]
    return parts


def turns(sentences: int, count: int, voices: int) -> list[tuple[int, int]]:
    """(sentence, voice) of each of `count` recordings; sentences alternate, again in other voices.

    No pair is there twice, so that at most `sentences` times `voices` result. `voices` is no
    multiple of 3.
    """
    pairs = [(turn % sentences, turn // sentences) for turn in range(count)]
    return [(s, (s + 3 * again) % voices) for s, again in pairs if again < voices]
