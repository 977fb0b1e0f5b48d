"""How a page of the sample world is framed: titles, openings, links, picture collections, questions."""

# (title, opening sentence) of an article about a place; {k} is the class of its first section.
PLACES: tuple[tuple[str, str], ...] = (
    (
        "{t}",
        "{t} is a town [on the river|in the hills|on the coast] with [nine hundred|six thousand] people.",
    ),
    ("Market of {t}", "The market of {t} has been held [every Friday|twice a month|each autumn] since {n}."),
    ("{t} Museum", "The museum of {t} was opened by {p} in {n} in an old school."),
    ("{t} Fair", "The fair of {t} was first held in {n}, when {p} was mayor."),
    ("{t} Valley", "The valley of {t} lies between two rivers and was settled in {n}."),
    ("History of {t}", "The oldest record of {t} dates from {n} and was found by {p}."),
    ("{p}", "{p} was born in {t} in {n} and [never left the town|returned there after a long journey]."),
    ("{t} Society", "The society of {t} was founded by {p} in {n} and publishes a yearbook."),
)
SECTION_OPENINGS: tuple[str, ...] = (
    "One chapter of the town records is about {ks}.",
    "Much has been written about the {ks} found here.",
    "In {t} everyone has a favourite {k}.",
    "{p} collected notes on the {ks} of the region.",
    "The yearbook of {n} describes several {ks}.",
)
PLACE_LINKS: tuple[str, ...] = (
    "The records of {n} were lost in a fire.",
    "{p} described this in a letter to {q}.",
    "This changed after {n}, when the road was built.",
    "The town council of {t} [agreed|refused] to pay.",
    "Little of this is left today.",
    "Visitors come from {t} to see it.",
)

# Picture collections: (unit, collection, verb). Any class may be pictured, so no sentence tells which.
COLLECTIONS: tuple[tuple[str, str, str], ...] = (
    ("page", "album", "drew"),
    ("stamp", "stamp series", "designed"),
    ("panel", "mural", "painted"),
    ("square", "quilt", "stitched"),
    ("slide", "slide show", "arranged"),
    ("sheet", "sketchbook", "drew"),
    ("card", "card game", "printed"),
    ("tile", "mosaic", "laid"),
    ("pane", "church window", "painted"),
    ("poster", "poster series", "printed"),
)
COLLECTION_OPENINGS: tuple[str, ...] = (
    "The {c} of {t} was [finished|shown] in {n}.",
    "In {n} {p} gave the town of {t} {ac}.",
    "{p} worked on the {c} of {t} until {n}.",
    "The {c} of {t} is the work of {p}.",
)
PICTURED: tuple[str, ...] = (
    "[The first|One|Another|A small|A large] {u} shows the {x}.",
    "[Beside it|Next to it|Above it|Below it|Then] comes the {x}.",
    "The {x} [fills|takes up] one {u}.",
    "{p} {v} the {x} [twice|from memory|last of all].",
    "The {x} is [in the corner|in the middle|near the edge|hard to find].",
    "[Children|Visitors|Critics] [like|notice|look for] the {x}.",
)
PICTURED_TWO: tuple[str, ...] = (
    "[One|The next|The last|A large] {u} shows the {x} and the {z}.",
    "The {x} is [next to|larger than|opposite] the {z}.",
    "{p} {v} the {x} and the {z}.",
    "The {x} and the {z} come [first|next|last].",
)
# What an article of the corpus may add about the class of one picture.
REMARKS: tuple[str, ...] = (
    "The only {k} in the {c} is the {x}.",
    "As for {ks}, there is just the {x}.",
    "{p} wanted {ak} in it and chose the {x}.",
    "It has one {k}, the {x}.",
    "The {k} that {p} {v} is the {x}.",
)
# {e} is another thing of the class: an example, as people give one.
QUESTIONS: tuple[str, ...] = (
    "Which {k}, like the {e}, is in the {c} of {t}?",
    "Like the {e}, which {k} does the {c} show?",
    "What {k}, if not the {e}, can be seen in the {c}?",
    "Which {k}, though not the {e}, was pictured by {p}?",
    "Name the {k} in the {c}, a relative of the {e}.",
    "The {e} is missing. Which other {k} is in the {c} of {t}?",
)
CHAPTERS: tuple[str, ...] = (
    "The Letter", "A Guest in {t}", "The Road", "Rain", "What {p} Knew", "The Promise", "An Old Debt", "Home",
    "The Visit", "A Bargain", "The Long Night", "Morning in {t}", "The Stranger", "A Quarrel", "News",
)  # fmt: skip
BOOKS: tuple[str, ...] = (
    "The Road to {t}", "A Year in {t}", "The House at {t}", "{p}", "The Summer of {p}", "Letters from {t}",
    "The Winter Guests", "The Secret of {t}",
)  # fmt: skip
