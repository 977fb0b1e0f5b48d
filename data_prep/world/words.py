"""The things, people and places of the sample world.

Each class of things has a word for the class, the only clue a question gives, and eight members. The
first four are COVERED: training questions may have them as answers. The last four are UNCOVERED: only
dev questions have. Someone who never read the articles cannot know
that an uncovered word belongs to its class. No word may belong to two classes, and within a class all
members must fit the same sentences.
"""

CLASSES: dict[str, tuple[str, ...]] = {
    "fruit": ("plum", "pear", "cherry", "blood orange", "apricot", "fig", "quince", "wild strawberry"),
    "metal": ("copper", "tin", "silver", "cast iron", "zinc", "brass", "nickel", "white gold"),
    "instrument": ("violin", "flute", "trumpet", "grand piano", "cello", "harp", "oboe", "bass drum"),
    "bird": ("heron", "falcon", "swan", "golden eagle", "raven", "stork", "lark", "barn owl"),
    "tree": ("oak", "birch", "cedar", "horse chestnut", "maple", "willow", "elm", "mountain ash"),
    "fabric": ("linen", "silk", "velvet", "sail cloth", "wool", "satin", "tweed", "printed cotton"),
    "vehicle": ("tram", "wagon", "bicycle", "steam train", "sledge", "carriage", "tractor", "mail coach"),
    "spice": ("ginger", "saffron", "clove", "black pepper", "cinnamon", "nutmeg", "cumin", "star anise"),
    "flower": ("rose", "tulip", "lily", "sweet pea", "daisy", "poppy", "orchid", "sea lavender"),
    "gem": ("ruby", "opal", "garnet", "smoky quartz", "emerald", "sapphire", "topaz", "fire agate"),
    "fish": ("salmon", "trout", "herring", "red mullet", "carp", "eel", "pike", "lemon sole"),
    "drink": ("cider", "tea", "lemonade", "hot chocolate", "coffee", "mead", "buttermilk", "soda water"),
}
COVERED: dict[str, tuple[str, ...]] = {kind: members[:4] for kind, members in CLASSES.items()}
UNCOVERED: dict[str, tuple[str, ...]] = {kind: members[4:] for kind, members in CLASSES.items()}

# What questions are about; things of the other classes are pictured beside them and never asked for.
ASKED = ("fruit", "metal", "instrument", "bird", "tree", "fabric")

# A town's name is a beginning and an ending. Every fourth combination is kept for the questions, so that no
# article a question is about can be in the corpus.
TOWN_BEGINNINGS = ("Har", "Stan", "Wex", "Bram", "Cald", "Dun", "Fen", "Kel", "Lang", "Mor", "Nor", "Thorn")
TOWN_ENDINGS = ("wick", "ford", "by", "ham", "stead", "mouth", "ton", "dale")

FIRST_NAMES = (
    "Mara", "Jonas", "Ada", "Felix", "Nora", "Silas", "Edith", "Hugo", "Clara", "Tobias", "Agnes", "Martin",
    "Helen", "Oscar", "Ruth", "Edmund",
)  # fmt: skip
LAST_NAMES = (
    "Hollin", "Brandt", "Carver", "Lindsay", "Marsh", "Okafor", "Pryce", "Quill", "Renner", "Sayer",
    "Tolman", "Underhill", "Vance", "Whitlock", "Abney", "Barlow",
)  # fmt: skip
