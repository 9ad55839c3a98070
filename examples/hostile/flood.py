line = "the answer is near " * 100
while True:
    print(line)
