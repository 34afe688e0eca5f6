"""What people ask that the world of the scenes has no answer to, and the sentence that says so.

Without such rows a small language model answers everything in the words that it knows: silence would be better, and
a sentence that says what it can do is better still.
"""

from functools import cache

CANNOT_ANSWER = "I cannot answer that: I only know the objects in small pictures, and can describe, draw and edit them."

# A request is a template with each of its words.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "Who is {}?": ("Albert Einstein", "the president", "your favourite singer", "Marie Curie", "Shakespeare"),
    "Who wrote {}?": ("Hamlet", "this book", "Don Quixote", "the Odyssey", "that song", "War and Peace"),
    "What is the capital of {}?": ("France", "Japan", "Brazil", "Kenya", "Canada", "Norway", "Peru", "India"),
    "When did {} happen?": ("the French Revolution", "the moon landing", "the last eclipse", "that"),
    "How old {}?": ("are you", "is the universe", "is the queen", "is this town", "is your sister"),
    "What is {}?": (
        "seven times eight", "12 plus 30", "the square root of nine", "the meaning of life", "a prime number",
        "quantum mechanics", "your name", "inflation", "photosynthesis", "the weather today", "the time", "love",
        "the best film", "a neural network", "democracy", "100 minus 37",
    ),
    "Why {}?": ("is the sky blue", "do cats purr", "is the sea salty", "are you here", "do we dream", "did Rome fall"),
    "How do I {}?": (
        "bake bread", "tie a tie", "learn French", "fix my bike", "get to the station", "install Linux", "sleep better",
        "grow tomatoes", "write a letter", "lose weight", "boil an egg", "open a bank account",
    ),
    "Tell me {}.": (
        "a joke", "a story", "about yourself", "the news", "a secret", "about your day", "about the Roman empire",
        "something interesting", "what you think", "how engines work",
    ),
    "Write {}.": (
        "a poem", "an email to my boss", "a Python function", "a haiku about spring", "my essay", "a song",
        "a shopping list", "a letter to my mother", "a short story", "the code for a web page",
    ),
    "{}": (
        "Hello.", "Hi there!", "Good morning.", "How are you?", "Thank you.", "Goodbye.", "I am tired.", "What now?",
        "I am bored.", "Do you love me?", "Can you help me?", "You are wrong.", "See you tomorrow.", "I like music.",
        "My dog is ill.", "asdf jkl", "Sing a song.", "Call my wife.", "Set an alarm for seven.", "Play some music.",
        "Book a flight to Rome.", "What should I cook tonight?", "Where are my keys?", "Is it going to rain?",
        "Do you speak Spanish?", "Are you a robot?", "What day is it?", "Who won the match?", "Where do you live?",
        "What does this word mean?", "Recommend a book.", "Explain the theory of relativity.", "Is God real?",
        "How far away is the moon?", "Which phone should I buy?", "Solve x + 3 = 10.", "Spell your name.",
    ),
    "Who {} this picture?": ("took", "painted", "made", "drew", "owns", "sold"),
    "What is the {} in this picture feeling?": ("person", "woman", "man", "child", "crowd"),
    "What is written on the {}?": ("sign", "wall", "shirt", "paper", "door", "licence plate", "label"),
    "What is the person {}?": ("doing", "wearing", "holding", "saying", "looking at", "thinking"),
    "Where was this picture {}?": ("taken", "painted", "made", "found"),
    "What {} is it in the picture?": ("season", "time of day", "year", "country", "city", "kind of weather"),
    "What will happen {}?": ("next", "after this", "tomorrow", "in ten years"),
    "Is this picture {}?": ("famous", "old", "worth a lot", "real", "in a museum", "a photograph"),
}  # fmt: skip
LANGUAGES = ("German", "French", "Spanish", "Italian", "Latin")
PHRASES = ("good night", "I am hungry", "the house", "thank you very much", "where is the train", "my friend")
_HELD_OUT = 5  # every so-manieth request is not in training


@cache
def out_of_scope_requests(held_out: bool) -> tuple[str, ...]:
    """What is asked in training, or what validation and test keep for themselves."""
    filled = [template.format(word) for template, words in TEMPLATES.items() for word in words]
    filled += [f"Translate {phrase} into {language}." for language in LANGUAGES for phrase in PHRASES]
    return tuple(request for index, request in enumerate(filled) if (index % _HELD_OUT == 0) == held_out)
