"""Conditions from text, behind one interface. Imports core and nn.

condition   texts of several lengths side by side: what every encoder gives and every generator reads
words       an encoder of known words, trained with a generator: no download
encoders    T5 and its family through transformers (extra `text`)
cache       features kept on disk, by a hash of encoder and prompt
prompts     what a person typed, made ready for an encoder
"""
