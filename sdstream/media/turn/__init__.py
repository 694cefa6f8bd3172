"""How WebRTC media finds its way where packets cannot come straight: which mode, our own coturn, TURN services."""
