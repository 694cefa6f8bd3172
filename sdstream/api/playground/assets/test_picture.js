// A moving picture to try the server with: large shapes for edges, fine bars for sharpness, a clock for delay and dropped pictures.

const INK = "#16181d";
const PAPER = "#f2ead8";
const COLOURS = ["#d94f30", "#e8a33d", "#2f7f79", "#27496d"];

export class TestPicture {
  #timer = null;
  #count = 0;

  constructor(width, height) {
    this.canvas = document.createElement("canvas");
    this.canvas.width = width;
    this.canvas.height = height;
    this.context = this.canvas.getContext("2d", { alpha: false });
    this.draw(0);
  }

  start(rate) {
    const begun = performance.now();
    this.#timer = setInterval(() => this.draw((performance.now() - begun) / 1000), 1000 / rate);
  }

  stop() {
    clearInterval(this.#timer);
  }

  /** The picture at `seconds`: the same moment gives the same shapes, only the clock is real. */
  draw(seconds) {
    const { context, canvas } = this;
    const unit = Math.min(canvas.width, canvas.height) / 100;
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.fillStyle = PAPER;
    context.fillRect(0, 0, canvas.width, canvas.height);
    context.translate(canvas.width / 2, canvas.height / 2);
    context.scale(unit, unit);
    this.#sun(seconds);
    this.#hills(seconds);
    this.#wheel(seconds);
    this.#bars();
    this.#clock();
    this.#count += 1;
  }

  #sun(seconds) {
    const { context } = this;
    context.fillStyle = COLOURS[0];
    disc(context, 18 * Math.cos(seconds * 0.5), -14 + 5 * Math.sin(seconds * 0.9), 17);
    context.strokeStyle = INK;
    context.lineWidth = 0.8;
    for (let ring = 0; ring < 3; ring += 1) {
      context.beginPath();
      context.arc(18 * Math.cos(seconds * 0.5), -14 + 5 * Math.sin(seconds * 0.9), 20 + ring * 3.5, 0, Math.PI * 2);
      context.globalAlpha = 0.5 - ring * 0.14;
      context.stroke();
    }
    context.globalAlpha = 1;
  }

  #hills(seconds) {
    const { context } = this;
    [2, 3, 1].forEach((colour, layer) => {
      context.fillStyle = COLOURS[colour];
      context.beginPath();
      context.moveTo(-100, 60);
      for (let x = -100; x <= 100; x += 2) {
        const y = 14 + layer * 10 + 6 * Math.sin(x * 0.07 + seconds * (0.5 + layer * 0.35) + layer * 2);
        context.lineTo(x, y);
      }
      context.lineTo(100, 60);
      context.fill();
    });
  }

  #wheel(seconds) {
    const { context } = this;
    context.save();
    context.translate(-26, -4);
    context.rotate(seconds * 0.8);
    context.fillStyle = INK;
    for (let blade = 0; blade < 3; blade += 1) {
      context.rotate((Math.PI * 2) / 3);
      context.beginPath();
      context.moveTo(-1.6, 0);
      context.lineTo(0, -19);
      context.lineTo(1.6, 0);
      context.fill();
    }
    context.restore();
    context.fillStyle = INK;
    context.fillRect(-26.6, -4, 1.2, 34);
    disc(context, -26, -4, 2.2);
  }

  #bars() {
    const { context } = this;
    context.fillStyle = INK;
    for (let bar = 0; bar < 16; bar += 1) context.fillRect(14 + bar * 1.9, -47, 0.3 + bar * 0.08, 6);
  }

  #clock() {
    const { context } = this;
    const now = new Date();
    const two = (value) => String(value).padStart(2, "0");
    const time = `${two(now.getHours())}:${two(now.getMinutes())}:${two(now.getSeconds())}.${String(now.getMilliseconds()).padStart(3, "0")}`;
    context.fillStyle = INK;
    context.font = "600 6px ui-monospace, 'SF Mono', Menlo, Consolas, monospace";
    context.textBaseline = "top";
    context.fillText(time, -46, -47);
    context.fillStyle = PAPER;
    context.font = "500 3.6px ui-monospace, 'SF Mono', Menlo, Consolas, monospace";
    context.fillText(`picture ${this.#count}`, -46, 42.5);
  }
}

function disc(context, x, y, radius) {
  context.beginPath();
  context.arc(x, y, radius, 0, Math.PI * 2);
  context.fill();
}
