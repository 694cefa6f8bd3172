// A WHIP publisher or a WHEP viewer on libdatachannel, the library that OBS has its WebRTC from, put together as OBS does.
//
//   node datachannel.mjs publish WHIP_URL   stdin: access units of H.264 with start codes, each after its length and its
//                                           90 kHz timestamp (two 32-bit numbers, the greatest byte first)
//   node datachannel.mjs view WHEP_URL      stdin: nothing
//
// Both end the session and go when stdin ends. A JSON line on stdout for all that happens: {"state": "connected"},
// {"answer": 201, "location": "...", "sdp": "..."}, {"packet": "RTP in base64"}, {"control": 206}, {"deleted": 200}.

import datachannel from "node-datachannel";

const [task, url] = process.argv.slice(2);
const tell = (event) => process.stdout.write(JSON.stringify(event) + "\n");
const connection = new datachannel.PeerConnection("peer", { iceServers: [], disableAutoNegotiation: true });
const isPublisher = task === "publish";
const direction = isPublisher ? "SendOnly" : "RecvOnly";

function addTrack(media, source) {
  if (isPublisher) media.addSSRC(source, "cname", "obs", `obs-${media.mid()}`);
  return connection.addTrack(media);
}

function sendBy(track, packetizer, configuration) {
  packetizer.addToChain(new datachannel.RtcpSrReporter(configuration));
  packetizer.addToChain(new datachannel.RtcpNackResponder());
  track.setMediaHandler(packetizer);
}

const audio = new datachannel.Audio("0", direction);
audio.addOpusCodec(111);
const sound = addTrack(audio, 1001);
const video = new datachannel.Video("1", direction);
video.addH264Codec(96);
const picture = addTrack(video, 1002);
const clock = new datachannel.RtpPacketizationConfig(1002, "cname", 96, 90000);
if (isPublisher) {
  const soundClock = new datachannel.RtpPacketizationConfig(1001, "cname", 111, 48000);
  sendBy(sound, new datachannel.RtpPacketizer(soundClock), soundClock);
  sendBy(picture, new datachannel.H264RtpPacketizer("StartSequence", clock), clock);
} else {
  picture.setMediaHandler(new datachannel.RtcpReceivingSession());
}
picture.onMessage((message) => {
  const isControl = message[1] >= 192 && message[1] <= 223;
  tell(isControl ? { control: message[1] } : { packet: message.toString("base64") });
});

let read = Buffer.alloc(0);

function send() {
  while (picture.isOpen() && read.length >= 8 && read.length >= 8 + read.readUInt32BE(0)) {
    const end = 8 + read.readUInt32BE(0);
    clock.timestamp = read.readUInt32BE(4);
    picture.sendMessageBinary(read.subarray(8, end));
    read = read.subarray(end);
  }
}

connection.onStateChange((state) => tell({ state }));
picture.onOpen(() => (isPublisher ? send() : picture.requestKeyframe()));

connection.setLocalDescription("offer");
await new Promise((resolve) => {
  connection.onGatheringStateChange((state) => state === "complete" && resolve());
  if (connection.gatheringState() === "complete") resolve();
});
const response = await fetch(url, {
  method: "POST",
  headers: { "content-type": "application/sdp" },
  body: connection.localDescription().sdp,
});
const sdp = await response.text();
const location = new URL(response.headers.get("location") ?? "", url).href;
tell({ answer: response.status, location, sdp });
connection.setRemoteDescription(sdp, "answer");

for await (const chunk of process.stdin) {
  read = Buffer.concat([read, chunk]);
  if (isPublisher) send();
}
tell({ deleted: (await fetch(location, { method: "DELETE" })).status });
connection.close();
datachannel.cleanup();
