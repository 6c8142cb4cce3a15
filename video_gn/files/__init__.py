"""Files: whole or not there, named in any bytes, locked."""
