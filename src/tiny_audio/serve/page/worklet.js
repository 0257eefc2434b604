// Hands the microphone's samples over in blocks of 100 ms.
class Blocks extends AudioWorkletProcessor {
  block = new Float32Array(2400);
  held = 0;

  process([[samples]]) {
    for (const sample of samples ?? []) {
      this.block[this.held++] = sample;
      if (this.held === this.block.length) {
        this.port.postMessage(this.block.slice());
        this.held = 0;
      }
    }
    return true;
  }
}
registerProcessor("blocks", Blocks);
