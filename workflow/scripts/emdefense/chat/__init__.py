"""The one way from conversations to tokens and back: in training, in sampling and in what is checked before."""
