"""`tandem verify`: does this server give a checkpoint's own answers?"""
