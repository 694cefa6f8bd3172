"""Publishers and viewers without WebRTC: one whole, encoded picture after the other, over whatever carries bytes."""
