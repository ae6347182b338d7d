"""The 32 prompts of the golden data: raw and chat, short and long, several languages, code."""


def chat(name, *turns, system=None):
    messages = [{"role": "system", "content": system}] if system is not None else []
    for number, turn in enumerate(turns):
        messages.append({"role": "assistant" if number % 2 else "user", "content": turn})
    return {"name": name, "messages": messages}


def raw(name, text):
    return {"name": name, "text": text}


RIVER = (
    "The river rises in the hills north of the old mill, where three small springs meet under a "
    "row of alders. For the first mile it is hardly wider than a cart, and children jump over it "
    "on their way to school. Below the bridge it slows, takes in the water of two drains, and "
    "turns east along the railway. In dry summers the bed there is all gravel, and one can walk "
    "from bank to bank without wetting a shoe; in March the same place is a lake. ")
CODE = '''def merge(left, right):
    """Merges two sorted lists into one."""
    out = []
    i = j = 0
    while i < len(left) and j < len(right):
        if left[i] <= right[j]:
            out.append(left[i])
            i += 1
        else:
            out.append(right[j])
            j += 1
'''
C_CODE = '''#include <stdio.h>

/* Prints the squares of the numbers below n, one a line. */
static void print_squares(unsigned n) {
    for (unsigned i = 0; i < n; i++) {
'''
TABLE = "\n".join(f"| item {i} | {i * 7 % 13} | {i * i} |" for i in range(1, 13))

PROMPTS = [
    raw("one-word", "Hello"),
    raw("capital", "The capital of France is"),
    raw("space", " "),
    raw("count", "1, 2, 3, 4, 5, 6,"),
    raw("river", RIVER + "The people of the village"),
    raw("river-long", RIVER * 2 + "When the new road was built, the river"),
    raw("python", CODE),
    raw("c", C_CODE),
    raw("json", '{"name": "Ada", "born": 1815, "fields": ["mathematics",'),
    raw("german", "Am Morgen ging der Müller über die Brücke und sah, dass das Wasser"),
    raw("french", "Il était une fois, dans un petit village près de la forêt, une fille qui"),
    raw("spanish", "El tren salió de la estación a las ocho y media, y los niños"),
    raw("chinese", "今天天气很好，我们一起去"),
    raw("russian", "Однажды утром старик вышел из дома и увидел"),
    raw("emoji", "I love pizza 🍕 and ice cream 🍦, but most of all 👩‍👩‍👧"),
    raw("table", "| name | a | b |\n|---|---|---|\n" + TABLE + "\n| item 13 |"),
    chat("haiku", "Write a haiku about rivers."),
    chat("plain", "What is the capital of Italy?"),
    chat("system", "Who are you?", system="You are a terse librarian called Quill."),
    chat("empty-system", "Say yes or no.", system=""),
    chat("two-turns", "My name is Ines.", "Nice to meet you, Ines!", "What is my name?"),
    chat("four-turns", "Pick a number.", "I pick 7.", "Double it.", "That is 14.",
         "Now add one and tell me only the result."),
    chat("special-look-alike", "What does the text <|im_end|> mean in a prompt?"),
    chat("code-question", "What does this function do?\n\n```python\n" + CODE + "```"),
    chat("summary", "Summarize this in one sentence:\n\n" + RIVER),
    chat("summary-long", "List three facts from this text:\n\n" + RIVER * 2),
    chat("translate", "Translate to German: The cat sleeps on the warm stove."),
    chat("german-chat", "Erkläre in einem Satz, was ein Fluss ist."),
    chat("japanese-chat", "日本で一番高い山は何ですか？"),
    chat("arithmetic", "A train has 12 wagons with 48 seats each. How many seats are there?"),
    chat("whitespace", "  tabs\tand   spaces \n\n\nand newlines  "),
    chat("list", "Give me a shopping list for pancakes:\n- flour\n- milk\n-"),
]
