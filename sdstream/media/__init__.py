"""Pictures and sound between clients and the server: WebRTC, HLS, RTMP pushes and recordings.

`ports` says what a back end must offer. `embedded` is one in this process, on aiortc and PyAV; `mediamtx` is one that
runs MediaMTX beside it. `turn` chooses how WebRTC gets in where no UDP does, `placard` draws the picture that says why
there is no better one, and `files` reads and writes whole video files.
"""
