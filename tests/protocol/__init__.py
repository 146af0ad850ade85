"""The protocol without a socket: RFC examples, rules, hypothesis, and parity of the two codecs."""
