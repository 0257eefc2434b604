const RATE = 24000; // Hz, of live audio
const $ = (id) => document.getElementById(id);
let lines = []; // {start, end, text}
let stop = null; // ends listening
let key = sessionStorage.getItem("key") ?? "";

function say(text, failed = false) {
  $("status").textContent = text;
  $("status").classList.toggle("failed", failed);
}

function clock(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

function show() {
  $("result").hidden = lines.length === 0;
  $("lines").replaceChildren(...lines.map((line) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    const time = document.createElement("time");
    const text = document.createElement("span");
    button.type = "button";
    time.textContent = clock(line.start);
    text.textContent = line.text;
    button.append(time, text);
    button.addEventListener("click", () => {
      if ($("player").hidden) return;
      $("player").currentTime = line.start;
      $("player").play();
    });
    item.append(button);
    return item;
  }));
}

// Sentences, or what stands between pauses.
function toLines(words) {
  const found = [];
  for (const { word, start, end } of words) {
    const last = found.at(-1);
    const full = last && (start - last.end > 0.8 || /[.?!]$/.test(last.text) || last.text.length > 70);
    if (!last || full) found.push({ start, end, text: word });
    else Object.assign(last, { end, text: `${last.text} ${word}` });
  }
  return found;
}

function play(blob) {
  $("player").src = URL.createObjectURL(blob);
  $("player").hidden = false;
}

async function model() {
  const answer = await fetch("v1/models", { headers: key ? { Authorization: `Bearer ${key}` } : {} });
  $("key-form").hidden = answer.status !== 401;
  if (!answer.ok) {
    if (answer.status === 401) $("key").focus();
    throw new Error((await answer.json()).error.message);
  }
  return (await answer.json()).data[0].id;
}

async function transcribe(file) {
  lines = [];
  show();
  say("Listening to the recording…");
  const form = new FormData();
  form.append("file", file, "recording");
  form.append("response_format", "verbose_json");
  form.append("timestamp_granularities[]", "word");
  try {
    form.append("model", await model());
    const answer = await fetch("v1/audio/transcriptions", {
      method: "POST", body: form, headers: key ? { Authorization: `Bearer ${key}` } : {},
    });
    const body = await answer.json();
    if (!answer.ok) throw new Error(body.error.message);
    lines = toLines(body.words);
    play(file);
    show();
    say(lines.length ? `${body.duration.toFixed(1)} seconds of audio` : "No words were found.");
  } catch (error) {
    say(error.message, true);
  }
}

function wav(blocks) {
  const samples = blocks.reduce((sum, block) => sum + block.length, 0);
  const head = new DataView(new ArrayBuffer(44));
  const text = (at, value) => [...value].forEach((c, n) => head.setUint8(at + n, c.charCodeAt(0)));
  text(0, "RIFF"); head.setUint32(4, 36 + 2 * samples, true); text(8, "WAVEfmt ");
  head.setUint32(16, 16, true); head.setUint16(20, 1, true); head.setUint16(22, 1, true);
  head.setUint32(24, RATE, true); head.setUint32(28, 2 * RATE, true);
  head.setUint16(32, 2, true); head.setUint16(34, 16, true);
  text(36, "data"); head.setUint32(40, 2 * samples, true);
  return new Blob([head, ...blocks], { type: "audio/wav" });
}

async function listen() {
  lines = [];
  show();
  $("player").hidden = true;
  await model(); // asks for a key if one is needed
  const media = await navigator.mediaDevices.getUserMedia({ audio: true });
  const address = new URL("v1/realtime?intent=transcription", location.href.replace(/^http/, "ws"));
  const socket = new WebSocket(address, ["realtime", ...(key ? [`openai-insecure-api-key.${key}`] : [])]);
  const context = new AudioContext({ sampleRate: RATE });
  const items = new Map();
  const blocks = [];

  socket.onmessage = ({ data }) => {
    const event = JSON.parse(data);
    const kind = event.type.split(".").at(-1);
    if (kind === "speech_started") {
      const start = event.audio_start_ms / 1000;
      items.set(event.item_id, { start, end: start, text: "" });
    } else if (kind === "speech_stopped") items.get(event.item_id).end = event.audio_end_ms / 1000;
    else if (kind === "delta") items.get(event.item_id).text += event.delta;
    else if (kind === "completed") items.get(event.item_id).text = event.transcript;
    else if (kind === "error") say(event.error.message, true);
    lines = [...items.values()].filter((line) => line.text);
    show();
  };
  socket.onclose = () => stop?.();
  await new Promise((resolve, reject) => {
    socket.onopen = resolve;
    socket.onerror = () => reject(new Error("The server cannot be reached."));
  });
  await context.audioWorklet.addModule("page/worklet.js");
  const node = new AudioWorkletNode(context, "blocks", { numberOfOutputs: 0 });
  node.port.onmessage = ({ data }) => {
    const block = Int16Array.from(data, (x) => Math.max(-1, Math.min(1, x)) * 32767);
    blocks.push(block);
    const audio = btoa(String.fromCharCode(...new Uint8Array(block.buffer)));
    if (socket.readyState === 1) socket.send(JSON.stringify({ type: "input_audio_buffer.append", audio }));
  };
  context.createMediaStreamSource(media).connect(node);
  say("Listening…");
  pressed(true);

  stop = () => {
    stop = null;
    media.getTracks().forEach((track) => track.stop());
    context.close();
    pressed(false);
    say("");
    if (blocks.length) play(wav(blocks));
    if (socket.readyState === 1) {
      socket.send(JSON.stringify({ type: "input_audio_buffer.commit" }));
      setTimeout(() => socket.close(), 10000);
    }
  };
}

function pressed(on) {
  $("speak").setAttribute("aria-pressed", on);
  $("speak-label").textContent = on ? "Stop" : "Speak";
}

$("speak").addEventListener("click", async () => {
  if (stop) return stop();
  try {
    await listen();
  } catch (error) {
    say(error.message, true);
  }
});
$("file").addEventListener("change", () => {
  if ($("file").files[0]) transcribe($("file").files[0]);
  $("file").value = "";
});
for (const kind of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", kind.startsWith("drage") || kind === "dragover");
    if (kind === "drop" && event.dataTransfer.files[0]) transcribe(event.dataTransfer.files[0]);
  });
}
$("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  key = $("key").value;
  sessionStorage.setItem("key", key);
  model().then(() => say(""), (error) => say(error.message, true));
});
$("player").addEventListener("timeupdate", () => {
  const now = $("player").currentTime;
  [...$("lines").querySelectorAll("button")].forEach((button, n) => {
    button.classList.toggle("now", lines[n].start <= now && now < lines[n].end);
  });
});
$("copy").addEventListener("click", async () => {
  await navigator.clipboard.writeText(lines.map((line) => line.text).join("\n"));
  say("Copied.");
});
$("srt").addEventListener("click", () => {
  const stamp = (seconds) => new Date(1000 * seconds).toISOString().slice(11, 23).replace(".", ",");
  const cues = lines.map((l, n) => `${n + 1}\n${stamp(l.start)} --> ${stamp(l.end)}\n${l.text}\n`);
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([cues.join("\n")], { type: "text/plain" }));
  link.download = "transcript.srt";
  link.click();
});
model().catch((error) => say(error.message, true));
