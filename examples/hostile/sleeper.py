import time

n = input()
time.sleep(3600)
print(n)
