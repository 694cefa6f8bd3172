"""What leaves a stream besides WHEP: HLS, RTMP pushes and recordings, all fed by the one encoder."""
