// The camera, frame by frame: as many as can be painted, each as large as that leaves it fluent.

import { PictureError, pixelsOf } from "./pictures.js";

const SIDES = [192, 256, 320, 384, 512, 640, 768]; // longest sides, of which one is taken
const FLUENT = [55, 110]; // milliseconds a frame: below the first the picture grows, above the second it shrinks

const REASONS = {
  NotAllowedError: "The camera wasn’t allowed. You can allow it in the browser’s settings of this page.",
  NotFoundError: "There is no camera on this device.",
  OverconstrainedError: "There is no camera on this device.",
  NotReadableError: "The camera is in use elsewhere, or doesn’t answer.",
};

export class Camera {
  live = false;
  #video = document.createElement("video");
  #side = 3;

  constructor({ onFrame, onRate, onError }) {
    Object.assign(this, { onFrame, onRate, onError });
    this.#video.muted = this.#video.playsInline = true;
  }

  async start() {
    if (!navigator.mediaDevices?.getUserMedia) {
      throw new PictureError("This page can’t use a camera here: browsers allow it on https:// and on localhost only.");
    }
    try {
      const wish = { facingMode: "user", width: { ideal: 1280 }, height: { ideal: 720 } };
      this.#video.srcObject = await navigator.mediaDevices.getUserMedia({ video: wish, audio: false });
      await this.#video.play();
    } catch (error) {
      this.stop();
      throw new PictureError(REASONS[error.name] ?? `The camera can’t be used: ${error.message}`);
    }
    for (const track of this.#video.srcObject.getTracks()) {
      track.onended = () => this.live && this.onError(new PictureError("The camera was disconnected."));
    }
    this.live = true;
    this.#go();
  }

  stop() {
    this.live = false;
    for (const track of this.#video.srcObject?.getTracks() ?? []) {
      track.onended = null;
      track.stop();
    }
    this.#video.srcObject = null;
  }

  /** The picture as the camera gives it, and not scaled down. */
  whole() {
    return pixelsOf(this.#video);
  }

  async #go() {
    const times = [];
    while (this.live) {
      await new Promise((next) => (document.hidden ? setTimeout(next, 250) : requestAnimationFrame(next)));
      if (!this.live || document.hidden || !this.#video.videoWidth) continue;
      const begun = performance.now();
      const { videoWidth: width, videoHeight: height } = this.#video;
      const side = Math.min(SIDES[this.#side], Math.max(width, height));
      const { data } = pixelsOf(this.#video, (side * side * Math.min(width, height)) / Math.max(width, height));
      try {
        await this.onFrame(data);
      } catch (error) {
        return this.onError(error);
      }
      times.push([begun, performance.now()]);
      if (times.length > 8) times.shift();
      if (times.length > 1 && this.live) {
        const passed = (times.at(-1)[1] - times[0][1]) / (times.length - 1);
        this.onRate(1000 / passed, data.width, data.height);
        if (times.length === 8) this.#fit(times);
      }
    }
  }

  #fit(times) {
    const spent = times.map(([begun, ended]) => ended - begun).sort((a, b) => a - b)[4];
    const step = spent < FLUENT[0] ? 1 : spent > FLUENT[1] ? -1 : 0;
    const side = Math.min(SIDES.length - 1, Math.max(0, this.#side + step));
    if (side !== this.#side) times.length = 0;
    this.#side = side;
  }
}
