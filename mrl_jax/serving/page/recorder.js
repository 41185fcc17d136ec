// Records the microphone as 16-bit mono WAV, and says how loud it is.

export class Recorder {
  constructor(onLevel) {
    this.onLevel = onLevel;
  }

  async start() {
    this.stream = await navigator.mediaDevices.getUserMedia({
      audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false },
    });
    this.context = new AudioContext();
    try {
      await this.context.resume(); // On some phones it begins suspended.
      await this.context.audioWorklet.addModule("page/capture.js");
    } catch (error) {
      this.stream.getTracks().forEach((track) => track.stop());
      throw error;
    }
    this.blocks = [];
    const source = this.context.createMediaStreamSource(this.stream);
    this.capture = new AudioWorkletNode(this.context, "capture");
    this.capture.port.onmessage = ({ data }) => {
      this.blocks.push(data);
      this.onLevel(Math.sqrt(data.reduce((sum, x) => sum + x * x, 0) / data.length));
    };
    source.connect(this.capture).connect(this.context.destination);
  }

  get seconds() {
    return this.blocks.reduce((sum, block) => sum + block.length, 0) / this.context.sampleRate;
  }

  // The recording as a WAV file, and its largest sample.
  async stop() {
    this.stream.getTracks().forEach((track) => track.stop());
    const rate = this.context.sampleRate;
    await this.context.close();
    const samples = new Float32Array(this.blocks.reduce((sum, block) => sum + block.length, 0));
    let end = 0;
    for (const block of this.blocks) {
      samples.set(block, end);
      end += block.length;
    }
    const peak = samples.reduce((most, x) => Math.max(most, Math.abs(x)), 0);
    return { file: wav(samples, rate), peak };
  }
}

function wav(samples, rate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (place, word) => [...word].forEach((c, i) => view.setUint8(place + i, c.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  text(8, "WAVEfmt ");
  view.setUint32(16, 16, true);
  view.setUint16(20, 1, true);
  view.setUint16(22, 1, true);
  view.setUint32(24, rate, true);
  view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true);
  view.setUint16(34, 16, true);
  text(36, "data");
  view.setUint32(40, 2 * samples.length, true);
  samples.forEach((x, i) => view.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, x)) * 32767, true));
  return new Blob([view], { type: "audio/wav" });
}
