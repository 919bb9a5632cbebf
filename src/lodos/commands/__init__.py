"""The verbs of the command line, one file each; `main(argv)` of each reads aloud as the order of events."""
