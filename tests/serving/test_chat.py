"""Chat: answers held to passages, refusals, history, commands; whole and streamed over HTTP."""

import asyncio
import dataclasses
import json
import threading
import urllib.request

import numpy as np
import pytest

from launch import chat as launcher
from minirec.recommend.passages.bm25 import Bm25Index, Bm25Settings
from minirec.recommend.passages.gate import Gate
from minirec.recommend.passages.passage import Passage
from minirec.recommend.passages.retriever import Retriever
from minirec.serving.chat.chat import ANSWER, QUOTATION, REFUSAL, Chat, ChatSettings, Drawing, Reply
from minirec.serving.chat.prompt import Turn, make_prompt
from minirec.serving.chat.support import best_sentence, sentences, support
from tests.ports import free_port
from tests.serving import browser

pytest.importorskip("bm25s", reason="needs the extra text")
LOBSTER = (
    "The lobster has two large claws. It sheds its shell in summer, and lives for fifty years."
)
SHORT = "Lobster traps are made of wood."
PASSAGES = [
    Passage(LOBSTER, "u/lobster", ("Lobster", "Body")),
    Passage(SHORT, "u/traps", ("Traps",)),
    Passage("A violin is carved from spruce. Its maker varnishes it.", "u/violin", ("Violin",)),
]
STOP = frozenset(("a", "an", "the", "is", "what", "how", "does", "of", "its", "has", "many", "who"))


class Bytes:
    """A tokenizer of bytes, behind a beginning and an end."""

    bos_id, eos_id = 0, 1

    def encode(self, texts):
        return [np.frombuffer(text.encode(), np.uint8).astype(np.int32) + 2 for text in texts]

    def decode(self, ids):
        return bytes(token - 2 for token in ids).decode(errors="replace")


class Played:
    """Writes what it is told, and keeps what it was asked."""

    def __init__(self, text):
        self.text, self.asked = text, []

    def write(self, prompt, drawing):
        self.asked.append((Bytes().decode(prompt[1:]), drawing))
        yield from (byte + 2 for byte in self.text.encode())
        yield Bytes.eos_id


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    return Bm25Index.build(tmp_path_factory.mktemp("i") / "i", PASSAGES, Bm25Settings(), {})


@pytest.fixture
def chat(index):
    def make(text, **changes):
        settings = ChatSettings(**{"window": 900, "max_new_tokens": 200} | changes)
        return Chat(Retriever(index), Gate(2, 0.6, STOP), Bytes(), Played(text), settings)

    return make


QUESTION = "How many claws has the lobster?"


def test_what_a_passage_says_is_shown_sentence_by_sentence_with_its_sources(chat):
    parts = list(chat(" The lobster has two claws. It sheds its shell.").answer(QUESTION))
    assert parts[:-1] == ["The lobster has two claws.", " It sheds its shell."]
    reply = parts[-1]
    assert (reply.kind, reply.text) == (ANSWER, "".join(parts[:-1]))
    assert reply.sources[0] == PASSAGES[0]
    assert reply.full_text.endswith("Sources:\n[1] Lobster › Body (u/lobster)\n[2] Traps (u/traps)")


def test_what_no_passage_says_is_not_shown(chat):
    made_up = " The lobster has two claws. Its uncle governs distant galaxies. It sheds its shell."
    assert chat(made_up).reply(QUESTION).text == "The lobster has two claws."
    for text in (
        " Its uncle governs distant galaxies.",
        "",
        "\nQuestion: and the lobster's claws?",
    ):
        reply = chat(text).reply(QUESTION)
        assert (reply.kind, reply.text) == (
            QUOTATION,
            "Quotation [1]: “The lobster has two large claws.”",
        )
    assert dataclasses.replace(chat(""), writer=None).reply(QUESTION).kind == QUOTATION


def test_words_of_two_passages_do_not_support_a_sentence():
    gate = Gate(2, 0.6, STOP)
    both = "The lobster carved a violin from spruce shell."
    assert support(both, PASSAGES, gate.content_words) == pytest.approx(4 / 6)
    assert support("", PASSAGES, gate.content_words) == 0
    assert support("The lobster.", PASSAGES, gate.content_words) == 1
    long = Passage("word " * 200, "u", ("T",))
    assert len(best_sentence("word", [long], gate.content_words)[0]) <= 402
    text = "One. Two!  3.5 of it? 日本。中国。\nLast"
    assert "".join(sentences(text)) == text
    assert [s.strip() for s in sentences(text)] == [
        *("One.", "Two!", "3.5 of it?", "日本。", "中国。", "", "Last")
    ]


def test_what_is_not_covered_is_refused_with_what_is_missing(chat):
    made = chat("The lobster has two claws.", refusal="No idea.")
    reply = made.reply("Who designed the lobster spacecraft engine?")
    assert (reply.kind, reply.sources) == (REFUSAL, ())
    assert reply.text == "No idea. (No passage holds: designed, spacecraft, engine)"
    assert not made.writer.asked
    assert "no word" in made.reply("What is the?").text
    with pytest.raises(ValueError, match="the question is empty"):
        made.reply("  ")


def test_letters_of_several_bytes_come_whole(chat, index, tmp_path):
    passages = [Passage("Größe überall: der Hummer wächst. Émile dit ça.", "u", ("Hummer",))]
    own = Bm25Index.build(tmp_path / "i", passages, Bm25Settings(), {})
    made = dataclasses.replace(chat(" Größe überall, Émile dit ça."), retriever=Retriever(own))
    parts = list(made.answer("Größe Hummer?"))
    assert parts[0] == "Größe überall, Émile dit ça."


def test_a_full_window_drops_old_turns_then_the_shortest_passages(chat):
    turns = [Turn("Is the trap wood?", "It is wood."), Turn("Who carved it?", "Its maker did.")]
    spelling = Bytes()
    whole = make_prompt(spelling, QUESTION, PASSAGES[:2], turns, 2000)
    assert (whole.passages, whole.turns) == (tuple(PASSAGES[:2]), tuple(turns))
    text = spelling.decode(whole.tokens[1:])
    assert text.startswith(f"Passage from Lobster › Body:\n{LOBSTER}\n\nPassage from Traps:\n")
    assert text.endswith(f"Answer: Its maker did.\n\nQuestion: {QUESTION}\nAnswer:")
    fewer = make_prompt(spelling, QUESTION, PASSAGES[:2], turns, len(whole.tokens) - 1)
    assert (fewer.passages, fewer.turns) == (tuple(PASSAGES[:2]), tuple(turns[1:]))
    alone = make_prompt(spelling, QUESTION, PASSAGES[:2], turns, 180)
    assert (alone.passages, alone.turns) == ((PASSAGES[0],), ())
    cut = make_prompt(spelling, QUESTION, PASSAGES[:2], turns, 100)
    assert len(cut.tokens) == 100
    assert cut.passages == (PASSAGES[0],)
    # The best one stays, also where it is the shortest.
    best = make_prompt(spelling, QUESTION, PASSAGES[1::-1], turns, 180)
    assert best.passages == (PASSAGES[1],)
    with pytest.raises(ValueError, match=r"the question has 49 tokens; 39 fit"):
        make_prompt(spelling, QUESTION, PASSAGES, turns, 40)
    with pytest.raises(ValueError, match="max_new_tokens=200: must leave room"):
        ChatSettings(window=200, max_new_tokens=200)


def test_whoever_asks_for_a_long_answer_takes_no_room_from_the_question(chat):
    one = chat(f"{LOBSTER}")
    long, usual = (one.reply(QUESTION, (), Drawing(max_new_tokens=n)) for n in (4096, None))
    assert long.text == usual.text
    assert long.tokens[0] == usual.tokens[0]


def test_as_many_turns_are_read_as_the_config_says(chat):
    turns = [Turn("Is the trap wood?", "It is wood."), Turn("Who carved it?", "Its maker did.")]
    counts = [
        chat(LOBSTER, history_turns=most, window=4000).reply(QUESTION, turns).tokens[0]
        for most in (0, 1, 2, 3, 5)
    ]
    assert counts[0] < counts[1] < counts[2] == counts[3] == counts[4]


def test_a_conversation_goes_on_and_is_forgotten(chat, capsys):
    made = chat(" The lobster has two claws.")
    lines = ["/sources", "/context", QUESTION, "/sources", "/context", QUESTION, "/nothing"]
    launcher.converse(made, [*lines, "Engine of spacecraft?", "/reset", QUESTION, "/quit", "x"])
    said = capsys.readouterr().out
    assert said.startswith("(no sources)\n(no context)\nThe lobster has two claws.\n\nSources:\n")
    assert f"[1] Lobster › Body\n{LOBSTER}\n" in said
    assert "error: /nothing: there is no such command; there are /sources" in said
    prompts = [prompt.count("Question: ") for prompt, _ in made.writer.asked]
    assert prompts == [1, 2, 1]


@pytest.fixture
def client(chat):
    testing = pytest.importorskip("starlette.testclient", reason="needs the extra serve")
    from minirec.serving.chat.http import ChatService, chat_application

    service = ChatService(chat(" The lobster has two claws. It sheds its shell."), "docs")
    yield testing.TestClient(chat_application(service)), service
    service.engine.close()


def messages(*texts):
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]


def test_an_answer_has_the_shape_of_chat_completions(client):
    client, service = client
    answer = client.post("/v1/chat", json={"messages": messages(QUESTION)}).json()
    assert (answer["object"], answer["model"]) == ("chat.completion", "docs")
    (choice,) = answer["choices"]
    content = choice["message"]["content"]
    assert content.startswith("The lobster has two claws. It sheds its shell.\n\nSources:\n[1] ")
    assert answer["minirec"]["kind"] == ANSWER
    assert answer["minirec"]["sources"][0]["text"] == LOBSTER
    body = {"messages": messages(QUESTION, content, QUESTION), "stream": True, "temperature": 0}
    response = client.post("/v1/chat/completions", json=body)
    assert response.headers["content-type"].startswith("text/event-stream")
    *events, end = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line]
    assert end == "[DONE]"
    chunks = [json.loads(event) for event in events]
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks) == content
    assert chunks[-1]["choices"][0]["finish_reason"] == "stop"
    assert chunks[-1]["minirec"]["kind"] == ANSWER
    prompt, drawing = service.engine.chat.writer.asked[-1]
    assert drawing == Drawing(200, 0.0)
    assert "Sources:" not in prompt
    assert prompt.count("Question: ") == 2


@pytest.mark.parametrize(
    ("changes", "field", "what"),
    [
        ({"messages": []}, "messages", "0 of them"),
        ({"messages": messages("a", "b")}, r"messages[1]", "the last must be a question"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages[0].role", "'assistant'"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages[0].role", "'system'"),
        ({"messages": messages("lobster claws " * 80)}, "messages", "tokens; 699 fit"),
        ({"temperature": -1}, "temperature", "-1"),
        ({"temperature": 1e-9}, "temperature", "1e-09; must be 0, or 0.001 to 100"),
        ({"top_p": 1e-9}, "top_p", "1e-09; must be 1e-06 to 1"),
        ({"max_tokens": 0}, "max_tokens", "0; must be 1 to 4096"),
        ({"model": "gpt"}, "model", "'docs' is served"),
        ({"logit_bias": {}}, "", "unknown field `logit_bias`"),
    ],
)
def test_what_cannot_be_asked_is_said_with_its_field(client, changes, field, what):
    client, _ = client
    response = client.post("/v1/chat", json={"messages": messages(QUESTION)} | changes)
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["reason"] == "bad_request"
    assert what in error["message"]
    assert error.get("field", "") == field


def test_a_server_that_ends_takes_on_nobody(client):
    client, service = client
    assert client.get("/readyz").status_code == 200
    assert client.get("/v1/models").json()["data"][0]["id"] == "docs"
    for name in ("", "page/chat.js", "page/style.css"):
        assert client.get(f"/{name}").status_code == 200
    assert client.get("/page/..%2Fhttp.py").status_code == 404
    service.engine.drain(1.0)
    response = client.post("/v1/chat", json={"messages": messages(QUESTION)})
    assert (response.status_code, response.json()["error"]["reason"]) == (503, "draining")
    assert client.get("/readyz").status_code == 503
    assert client.get("/v1/chat").status_code == 405
    assert isinstance(service.engine.chat.reply(QUESTION), Reply)


@pytest.fixture
def address(chat):
    """A server in a thread, as launch.chat --port starts it."""
    pytest.importorskip("uvicorn", reason="needs the extra serve")
    from minirec.serving.chat.http import ChatService, chat_application
    from minirec.serving.server import Addresses, Fronts, serve

    service = ChatService(chat(" The lobster has two claws. Its uncle governs galaxies."), "docs")
    port, ready = free_port(), threading.Event()
    loop, stop = asyncio.new_event_loop(), asyncio.Event()
    serving = serve(
        lambda: service,
        Addresses(http_port=port),
        on_ready=lambda _: ready.set(),
        stop=stop,
        fronts=Fronts(chat_application),
    )
    thread = threading.Thread(target=lambda: loop.run_until_complete(serving))
    thread.start()
    assert ready.wait(60)
    yield f"http://127.0.0.1:{port}/"
    loop.call_soon_threadsafe(stop.set)
    thread.join(60)
    loop.close()


def test_the_server_streams_an_answer(address):
    body = json.dumps({"messages": messages(QUESTION), "stream": True}).encode()
    headers = {"content-type": "application/json"}
    request = urllib.request.Request(f"{address}v1/chat", body, headers)
    with urllib.request.urlopen(request, timeout=60) as response:
        events = response.read().decode().split("\n\n")
    assert events[-2] == "data: [DONE]"
    first = json.loads(events[0].removeprefix("data: "))
    assert first["choices"][0]["delta"]["content"] == "The lobster has two claws."


@pytest.mark.skipif(browser.chromium() is None, reason="there is no Chromium")
def test_the_page_shows_answers_with_their_sources(address, tmp_path):
    pytest.importorskip("websocket", reason="websocket-client is not installed")
    window = browser.Browser(str(tmp_path / "chromium"))
    try:
        window.open(address)
        window.until("document.getElementById('name').textContent === 'docs'")
        for number, (question, kind) in enumerate(((QUESTION, ""), ("Spacecraft?", "refusal"))):
            window.run(f"document.getElementById('question').value = {json.dumps(question)}")
            window.click("document.getElementById('send')")
            said = "[...document.querySelectorAll('#said li')]"
            window.until(f"{said}.length === {2 * number + 2}")
            window.until("!document.getElementById('send').disabled")
            shown = window.run(f"{said}.at(-1).className + '|' + {said}.at(-1).innerText")
            assert kind in shown.partition("|")[0]
            if not number:
                assert shown.partition("|")[2].startswith("The lobster has two claws.")
                assert "[1] Lobster › Body (u/lobster)" in shown
        assert window.run("document.querySelectorAll('#said details').length") == 2
    finally:
        window.close()
