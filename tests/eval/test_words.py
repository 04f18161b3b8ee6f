from eval.words import counted


def test_one_has_no_s():
    assert counted(1, "sample") == "1 sample"
    assert counted(0, "sample") == "0 samples"
    assert counted(2048, "real image") == "2,048 real images"
    assert counted(2, "box", "boxes") == "2 boxes"
