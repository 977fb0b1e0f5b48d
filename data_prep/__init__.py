"""Raw text to a token store that bert_lamb trains on."""
