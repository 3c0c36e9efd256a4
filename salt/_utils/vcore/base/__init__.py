"""The ground floor: names, paths, files, locks and errors. It needs the standard library only."""
