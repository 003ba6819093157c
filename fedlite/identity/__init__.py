"""Who signs what: names, canonical bytes and keys. Nothing here knows of ledgers or letters."""
