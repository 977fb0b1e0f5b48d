"""Sentences of the books, by the class they are about: what people do and say. See world_lines."""

SCENES: dict[str, tuple[str, ...]] = {
    "fruit": (
        "{p} bit into the ripe {x}, and the juice ran down to the elbow.",
        '"Is the {x} sweet?" asked {q}. "[Sweeter|Riper] than the {y}," said {p}.',
        "There was a basket in the orchard, and in it lay one ripe {x} and one {y}.",
        "{q} peeled the {x} [slowly|with a knife] and threw the skin into the [grass|bucket].",
        "They stirred the jam until the kitchen smelled of {x}.",
        "{p} climbed the ladder in the orchard and picked the {x}.",
    ),
    "metal": (
        "{p} [heated|held] the {x} in the forge until it glowed.",
        '"Is it {x}?" asked {q}. {p} scratched the metal. "No, it is {y}."',
        "The {x} ran out of the furnace, molten and bright, into the mould.",
        "{q} [hammered|bent] the sheet of {x} over the edge of the anvil.",
        "At the forge lay plates of {x} and a bar of {y}.",
        "{p} melted the {x} and cast it again.",
    ),
    "instrument": (
        "{p} [tuned|took up] the {x} and played the melody again.",
        '"Who plays the {x} tonight?" asked {q}. "I do, and you play the {y}," said {p}.',
        "From the concert hall came the sound of the {x}, and then of the {y}.",
        "{q} practised the {x} [every evening|until midnight] and dreamed of the orchestra.",
        "The melody was written for the {x}, but {p} tried it on the {y}.",
        "The orchestra fell silent, and only the {x} played on.",
    ),
    "bird": (
        "{p} saw the {x} [circle|land] above the nest with its wings spread.",
        '"Listen, the {x}!" whispered {q}. "That call was the {y}," said {p}.',
        "The {x} flew up from the reeds, and two feathers fell.",
        "{q} found an egg of the {x} under the nest and put it back.",
        "All night they heard the call of the {x} from its nest.",
        "The chicks of the {x} opened their beaks, and {p} kept still.",
    ),
    "tree": (
        "{p} leaned against the trunk of the {x} and looked up into its branches.",
        '"Shall we fell the {x}?" asked {q}. "No, its roots hold the bank. Take the {y}," said {p}.',
        "The leaves of the {x} [fell|rustled] all afternoon in the forest.",
        "{q} [cut|carved] two letters into the bark of the {x}.",
        "They slept in the forest under the branches of the {x}.",
        "The storm had split the trunk of the {x} and spared the {y}.",
    ),
    "fabric": (
        "{p} wore a [coat|gown] of {x} with a lining of {y}.",
        '"Is this {x}?" asked {q}. "Feel the thread," said the tailor, "it is {y}."',
        "The tailor cut the {x} and sewed until the candle burned down.",
        "{q} folded the {x} and laid it by the loom.",
        "The shirt of {x} had been dyed [blue|green], and the sleeves had shrunk.",
        "There was a needle and thread, and enough {x} for a collar.",
    ),
    "vehicle": (
        "{p} climbed into the {x}, and the driver [nodded|shouted].",
        '"Do we take the {x}?" asked {q}. "The {y} left the station an hour ago," said {p}.',
        "The {x} came round the bend with one wheel shaking, and the passengers cried out.",
        "{q} paid the driver of the {x} and rode as far as the crossing.",
        "The wheels of the {x} sank into the mud of the road.",
        "The driver pulled the brake, and the {x} stood still at the depot.",
    ),
    "spice": (
        "{p} threw a pinch of {x} into the soup and tasted it.",
        '"Too much {x}," said {q}, and coughed. "It is the {y} in the sauce," said {p}.',
        "The kitchen smelled of stew and {x}, ground that morning.",
        "{q} ground the {x} to powder and sealed the jar.",
        "The recipe said {x}, but in the jar there was only {y}.",
        "A little {x} was left in the jar, just a pinch for the sauce.",
    ),
    "flower": (
        "{p} put the {x} into a vase, and a petal fell.",
        '"For the wedding I want the {x} in my bouquet," said {q}. "And no {y}?" asked {p}.',
        "The bed under the window smelled of {x} when it bloomed.",
        "{q} [watered|cut] the {x} in the garden bed and tied a bouquet.",
        "The {x} had wilted in its vase, but the {y} still bloomed.",
        "A bee crept over the petals of the {x}.",
    ),
    "gem": (
        "{p} turned the ring until the {x} sparkled.",
        '"Is the {x} real?" asked {q}. "As real as the {y} in the brooch," said the jeweller.',
        "In the box lay a necklace, and in its clasp the {x} sparkled.",
        "{q} sold the {x} to the jeweller and kept the ring.",
        "The jeweller weighed the {x} and said how many carats it had.",
        "The {x} had been cut from the brooch in the night, and so had the {y}.",
    ),
    "fish": (
        "{p} pulled in the net, and in it was the {x}.",
        '"Did you catch the {x}?" asked {q}. "Only the {y} took the bait," said {p}.',
        "The {x} leaped, and its scales shone over the water.",
        "{q} grilled the {x} by the harbour and picked out the bones.",
        "The hook had caught the {x} by its fin.",
        "The fishermen threw the {x} back and kept the {y} in the net.",
    ),
    "drink": (
        "{p} poured a [cup|mug|glass] of {x} and drank it at once.",
        '"Will you have {x}?" asked the innkeeper. "A mug of {y}, if there is any," said {q}.',
        "They sat in the inn over two glasses of {x} and were no longer thirsty.",
        "{q} spilled the {x}, and the jug rolled under the bar.",
        "The mug smelled of {x}, and {p} sipped with care.",
        "The innkeeper brought up {x} from the cellar in a jug.",
    ),
}

# Fit every class.
ANY_SCENE: tuple[str, ...] = (
    '"Which {k} do you [mean|remember]?" asked {p}. "The {x}," said {q}.',
    '"What {k} was it?" asked {q}. "The {x}," said {p}.',
    "{p} had never thought much of the {y}, but the {x} was another {k}.",
    '"There is no better {k} than the {x}," said {q}.',
    "Of all {ks}, {p} [liked|missed] the {x} most.",
    '"Name me {ak}," said {p}. {q} thought of the {x} first, and then of the {y}.',
)

# Say nothing of any class; they join the scenes.
LINKS: tuple[str, ...] = (
    "{p} said nothing for a while.",
    "It was [late|early], and {t} was quiet.",
    "{q} laughed and shook the rain from a sleeve.",
    "The next morning they met again.",
    '"Come along," said {p}, and they went on.',
    "A letter came from {t}, and {q} read it twice.",
    "{p} had promised to be back before dark.",
    '"I remember it well," said {q}.',
    "Nobody in {t} knew why {p} had come.",
    "They walked home slowly, and {p} told the story again.",
)
