"""What the layouts share: the items of a listing; folders, tars and zips; tables; pickles and arrays of pixels."""
