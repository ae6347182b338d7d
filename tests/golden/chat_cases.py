"""Conversations, the families of templates/, and snippets that pin single rules."""
import copy
import os
import struct

HERE = os.path.dirname(os.path.abspath(__file__))
def matrix():
    return []
def snippets():
    return []
NEVER_USER=""
def conversations(): return []
