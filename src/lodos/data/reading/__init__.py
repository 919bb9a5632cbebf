"""Rows, from whatever `data` names: files of several kinds, folders, globs, URLs, the hub."""
