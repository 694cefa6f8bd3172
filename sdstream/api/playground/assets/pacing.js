// When the next whole picture may be sent, and how coarse it should be. Nothing but times: no sockets, no pictures.

const MOST_UNANSWERED = 8;
const SLACK_MS = 150; // by how much an answer may be late before the line counts as full
const MEMORY_MS = 10_000; // for how long an answer time is believed: lines change
const WINDOW_MS = 1000;
const MUCH = 1 / 3; // of the source's pictures
const QUIET_WINDOWS = 5;

/** JPEG qualities from fine to coarse. */
export const QUALITIES = [0.85, 0.7, 0.5, 0.3];

/**
 * The pace of a publisher whose pictures are each answered by the server. All moments are milliseconds of one clock. Call `offer` for
 * each picture of the source, `sent` for each that goes out and `answered` for each answer.
 */
export class Pacing {
  #unanswered = []; // the moments at which pictures went out, oldest first
  #answers = []; // {at, took} of the last seconds
  #most = 1; // how many may be unanswered
  #waits = false; // a picture of the source that has not been sent
  #level = 0;
  #quiet = 0;
  #window = null; // {since, offered, held, bytes}
  #rate = 0;

  /** Whether a picture may go out now: always while all are answered; beside others only while answers are on time. */
  may(now) {
    if (!this.#unanswered.length) return true;
    if (this.#unanswered.length >= this.#most) return false;
    const least = this.#leastAnswer(now);
    return least !== null && now - this.#unanswered[0] < least + SLACK_MS;
  }

  /** The source has a new picture; one before it that was not sent because of the line is one that was held back. */
  offer(now) {
    this.#turn(now);
    this.#window.offered += 1;
    if (this.#waits && !this.may(now)) this.#window.held += 1;
    this.#waits = true;
  }

  /** The newest picture goes out, `bytes` large. */
  sent(now, bytes) {
    this.#turn(now);
    this.#window.bytes += bytes;
    this.#waits = false;
    this.#unanswered.push(now);
  }

  /** The server has answered the oldest picture; an answer to nothing is ignored. */
  answered(now) {
    const at = this.#unanswered.shift();
    if (at === undefined) return;
    const took = now - at;
    this.#answers = this.#answers.filter((answer) => answer.at > now - MEMORY_MS);
    this.#answers.push({ at: now, took });
    // A picture that waited behind others on a narrow line is late, too; without this, eight would wait there.
    this.#most = took < this.#leastAnswer(now) + SLACK_MS ? Math.min(this.#most + 1, MOST_UNANSWERED) : Math.max(this.#most - 1, 1);
  }

  /** For how many milliseconds the oldest picture has been waiting for its answer; 0 when none does. */
  silence(now) {
    return this.#unanswered.length ? now - this.#unanswered[0] : 0;
  }

  /** What `toBlob` is to be given for the next picture. */
  get quality() {
    return QUALITIES[this.#level];
  }

  /** Bits a second that went out in the last whole second. */
  get rate() {
    return this.#rate;
  }

  #leastAnswer(now) {
    const lately = this.#answers.filter(({ at }) => at > now - MEMORY_MS).map(({ took }) => took);
    return lately.length ? Math.min(...lately) : null;
  }

  /** Judge the second that ended, if one did. */
  #turn(now) {
    const window = this.#window;
    if (window !== null && now - window.since < WINDOW_MS) return;
    this.#window = { since: now, offered: 0, held: 0, bytes: 0 };
    if (window === null) return;
    this.#rate = Math.round((8000 * window.bytes) / (now - window.since));
    if (!window.offered) return;
    if (window.held > MUCH * window.offered) {
      this.#quiet = 0;
      this.#level = Math.min(this.#level + 1, QUALITIES.length - 1);
    } else if (window.held > 0) {
      this.#quiet = 0;
    } else if ((this.#quiet += 1) >= QUIET_WINDOWS) {
      this.#quiet = 0;
      this.#level = Math.max(this.#level - 1, 0);
    }
  }
}
